"""Reading bounce mail: times, identities and what decides between hard and soft."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from services.receipts.mail.mime import parts_of, with_line_feeds
from services.receipts.mail.reading import NO_ACTION, NO_BOUNCE, NOT_OURS, read_mail
from services.receipts.reading import Reading
from shared.receipts import make_return_token
from tests.unit.receipts.mail.expected import JOB_ID, RECEIPTS
from tests.unit.receipts.mail.reading_samples import FOLDER, SECRET, TAKEN_AT, TOKEN, read, sample

_SENT = 1_795_857_302.0  # Sat, 28 Nov 2026 09:15:02 +0000


def test_time_is_the_last_attempt_else_the_date() -> None:
    """The report's last attempt counts, then the mail's Date; both are equal however often the mail comes."""
    assert read(sample("postfix-unknown-user")).receipts[0].at == _SENT
    assert read(sample("sendmail-unknown-user")).receipts[0].at == _SENT - 2
    assert read_mail(sample("postfix-unknown-user"), TAKEN_AT + 3600, SECRET) == read(sample("postfix-unknown-user"))


@pytest.mark.parametrize("date", [b"", b"Date: tomorrow\r\n"])
def test_mail_without_a_date_gives_equal_receipts_however_often_it_is_read(date: bytes) -> None:
    """A mailbox may be read twice, so the time is then that of the server that received the mail."""
    raw = sample("sendmail-unknown-user")
    written = re.search(rb"(?m)^Date: [^\r\n]*\r\n", raw)
    assert written is not None
    raw = b"Received: by mx.example.com with LMTP; Sat, 28 Nov 2026 09:16:00 +0000\r\n" + raw.replace(
        written[0], date, 1
    )
    raw = re.sub(rb"(?m)^Last-Attempt-Date: [^\r\n]*\r\n", b"", raw)
    first, second = (read_mail(raw, TAKEN_AT + later_s, SECRET) for later_s in (0, 3600))
    assert first == second
    assert (first.receipts[0].at, first.receipts[0].timed) == (_SENT + 58, True)


@pytest.mark.parametrize("name", ["sendmail-unknown-user", "arf-yahoo"])
def test_receipt_without_any_time_says_so(name: str) -> None:
    """Its time is that of the reading, and another reading gives another one, so the log does not compare it."""
    raw = re.sub(rb"(?m)^(?:Date|Last-Attempt-Date|Received): [^\r\n]*(?:\r\n[ \t][^\r\n]*)*\r\n", b"", sample(name))
    (receipt,) = read(raw).receipts
    assert (receipt.at, receipt.timed) == (TAKEN_AT, False)
    assert all(one.timed for one in read(sample(name)).receipts)


@pytest.mark.parametrize("date", ["Sat, 28 Nov 1926 09:15:02 +0000", "tomorrow", "Sat, 99 Nov 2099 99:99:99 +9999", ""])
def test_absurd_date_gives_the_time_of_receipt(date: str) -> None:
    """A mail from the past, from the future or without a date happened when it was taken."""
    raw = sample("postfix-unknown-user").replace(b"Sat, 28 Nov 2026 09:15:02 +0000", date.encode())
    assert read(raw).receipts[0].at == TAKEN_AT


def test_token_in_the_envelope_wins_over_the_returned_mail() -> None:
    """The envelope's token names the job, even if the returned header names another."""
    other = make_return_token("06fv3k9qz1m2n4p7:99:email", SECRET)
    raw = f"Delivered-To: b-{other}@bounces.example.com\r\n".encode() + sample("postfix-unknown-user")
    (receipt,) = read(raw).receipts
    assert (receipt.job_id, receipt.trusted) == ("06fv3k9qz1m2n4p7:99:email", True)


@pytest.mark.parametrize("field", ["Delivered-To", "X-Original-To", "Envelope-To", "To", "Return-Path"])
def test_token_is_found_wherever_servers_write_it(field: str) -> None:
    """The fields of the envelope count, and the return path of the returned mail, where a mailbox collects bounces."""
    token = f"b-{make_return_token(JOB_ID, SECRET)}@bounces.example.com".encode()
    raw = sample("postfix-foreign")
    line = b"%b: <%b>\r\n" % (field.encode(), token)
    raw = raw.replace(b"Return-Path: <someone@example.com>\r\n", line) if field == "Return-Path" else line + raw
    (receipt,) = read(raw).receipts
    assert (receipt.job_id, receipt.trusted) == (JOB_ID, True)


@pytest.mark.parametrize(
    "address",
    [
        "prvs=0123456789={token}@bounces.example.com",
        "btv1==012abcdef3456==b-other@example.org {token}@bounces.example.com",
        "SRS0=Ab1c=XY=bounces.example.com={token}@forwarder.example",
        "SRS1=d2Ef=forwarder.example==Ab1c=XY=bounces.example.com={token}@other.example",
        "ana+SRS=Ab1cD=XY=bounces.example.com={token}@example.org",
    ],
)
@pytest.mark.parametrize("case", [str, str.upper, str.title])
def test_token_survives_what_servers_make_of_a_return_path(address: str, case: Callable[[str], str]) -> None:
    """BATV, both forms of SRS and Microsoft's, in any case, hide no token."""
    written = case(address.format(token=f"b-{make_return_token(JOB_ID, SECRET)}"))
    raw = sample("postfix-foreign").replace(b"Return-Path: <someone@example.com>", f"Return-Path: <{written}>".encode())
    (receipt,) = read(raw).receipts
    assert (receipt.job_id, receipt.trusted) == (JOB_ID, True)


@pytest.mark.parametrize("change", ["cut", "longer", "another letter", "another secret", "another job"])
def test_token_that_is_not_whole_proves_nothing(change: str) -> None:
    """A token that was cut, changed or made elsewhere, such as by another installation, is not one."""
    token = make_return_token(JOB_ID, SECRET)
    changed = {
        "cut": token[:-3],
        "longer": f"{token}aaa",
        "another letter": token.replace(token[10], "a" if token[10] != "a" else "b", 1),
        "another secret": make_return_token(JOB_ID, "another installation"),
        "another job": token[:8] + make_return_token("06fv3k9qz1m2n4p7:18:email", SECRET)[8:],
    }[change]
    assert changed != token
    raw = f"Delivered-To: b-{changed}@bounces.example.com\r\n".encode() + sample("postfix-foreign")
    reading = read(raw)
    assert (list(reading.receipts), reading.problem) == ([], NOT_OURS)


def test_without_the_secret_nothing_is_trusted() -> None:
    """A token signed with another secret proves nothing; the Message-ID then names the job, untrusted."""
    (receipt,) = read_mail(sample("postfix-unknown-user"), TAKEN_AT, "another secret").receipts
    assert (receipt.job_id, receipt.trusted, bool(receipt.message_id)) == ("", False, True)
    (receipt,) = read_mail(sample("postfix-unknown-user"), TAKEN_AT, "").receipts
    assert not receipt.trusted


def test_bad_member_of_a_list_does_not_condemn_the_list() -> None:
    """If a report names several recipients, only a verdict on the message's own address can be hard."""
    severities = {one.address: one.severity for one in read(sample("postfix-expanded-list")).receipts}
    assert severities == {"bea@example.org": "soft", "cem@example.org": ""}
    severities = {one.address: one.severity for one in read(sample("postfix-own-among-several")).receipts}
    assert severities == {"ana@example.org": "hard", "copy@example.org": "soft"}


@pytest.mark.parametrize(
    ("status", "diagnostic", "severity"),
    [
        ("5.0.0", "smtp; 550 5.1.1 user unknown", "hard"),
        ("5.1.1", "smtp; 550 5.7.1 blocked", "soft"),
        ("5.0.0", "smtp; 550 user unknown", "hard"),
        ("5.0.0", "smtp; 550 message content rejected", "soft"),
        ("5.0.0", "smtp; 554 no", "soft"),
        ("5.1.1", "", "hard"),
        ("4.4.7", "smtp; 550 5.1.1 user unknown", "soft"),
        ("5.1.1", "smtp; 452 4.2.2 mailbox full", "soft"),
        ("5.7.1", "smtp; 550 user unknown", "soft"),
        ("5.1.1", "smtp; 550 Your domain is on our block list", "soft"),
    ],
)
def test_reply_counts_before_the_status(status: str, diagnostic: str, severity: str) -> None:
    """The remote server's code and words decide; the status does where they say nothing, and never against them."""
    report = f"Final-Recipient: rfc822; ana@example.org\r\nAction: failed\r\nStatus: {status}\r\n"
    raw = sample("powermta")
    begin, end = raw.index(b"Original-Recipient"), raw.index(b"X-PowerMTA")
    raw = (
        raw[:begin]
        + report.encode()
        + (f"Diagnostic-Code: {diagnostic}\r\n".encode() if diagnostic else b"")
        + raw[end:]
    )
    assert [one.severity for one in read(raw).receipts] == [severity]


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ("Diagnostic-Code: smtp; 550 5.1.1 user unknown", "bounced"),
        ("Diagnostic-Code: smtp; 451 4.3.0 try later", "ignored"),
        ("Action: gegeben\r\nStatus: 5.1.1", "bounced"),
        ("Action: gegeben", "kept"),
        ("Remote-MTA: dns; mx.example.org", "kept"),
    ],
)
def test_unknown_action_is_that_of_the_code_or_is_kept(fields: str, action: str) -> None:
    """Without an action that is known, the class of the code decides; a report without either is set aside whole."""
    raw = sample("powermta")
    begin, end = raw.index(b"Original-Recipient"), raw.index(b"X-PowerMTA")
    reading = read(raw[:begin] + f"Final-Recipient: rfc822; ana@example.org\r\n{fields}\r\n".encode() + raw[end:])
    kinds = [one.kind for one in reading.receipts]
    assert (kinds, reading.ignored, reading.problem) == {
        "bounced": (["bounced"], 0, ""),
        "ignored": ([], 1, ""),
        "kept": ([], 0, NO_ACTION),
    }[action]


@pytest.mark.parametrize(
    ("final", "severity"),
    [
        ("ana@example.org", "hard"),
        ("ANA@example.org", "hard"),
        ("ana@mailstore.example.org", "hard"),
        ("ana", "hard"),
        ("ana+news@example.org", "hard"),
        ("bea@example.org", "soft"),
        ("ana.at.home@example.net", "soft"),
    ],
)
def test_only_a_verdict_on_our_recipient_is_hard(final: str, severity: str) -> None:
    """Servers write our recipient with another domain or none; any other address is a member of a list or an alias."""
    raw = sample("postfix-unknown-user").replace(
        b"Final-Recipient: rfc822; ana@example.org", f"Final-Recipient: rfc822; {final}".encode()
    )
    assert [one.severity for one in read(raw).receipts] == [severity]


@pytest.mark.parametrize(
    "subject",
    ["Automatic reply: Invoice 7", "Automatski odgovor: Invoice 7", "Автоматичен отговор", "Samodejni odgovor: 7",
     "Automatinis atsakymas: 7", "Automātiska atbilde: 7", "Automaatvastus: 7", "Resposta automàtica: 7",
     "پاسخ خودکار: 7", "स्वचालित उत्तर: 7", "[Awtomatikong tugon] 7"],
)  # fmt: skip
def test_an_absence_is_recognised_by_its_subject_alone(subject: str) -> None:
    """Some programs write none of the fields of RFC 3834; the words of people who are away may sound like a failure."""
    mail = (
        f"Return-Path: <>\nTo: {TOKEN}@bounces.example.com\nFrom: Ana <ana@example.org>\nSubject: {subject}\n\n"
        "Your message could not be delivered to me in person until Monday.\n"
    )
    assert read(mail.encode()) == Reading(ignored=1)


@pytest.mark.parametrize(
    "name", ["postfix-unknown-user", "office365-not-found", "gmail-delay", "arf-yahoo", "read-receipt"]
)
@pytest.mark.parametrize("encoding", ["8bit", "base64"])
def test_a_report_that_is_forwarded_as_an_attachment_is_read(name: str, encoding: str) -> None:
    """A rule of a mailbox may forward bounces so; the mail around it says nothing."""
    raw = sample(name)
    attached = base64.encodebytes(raw) if encoding == "base64" else raw
    forwarded = (
        b"From: Bounces <bounces@example.com>\nTo: collect@bounces.example.com\nSubject: FW: Undeliverable\n"
        b'Content-Type: multipart/mixed; boundary="outer"\n\n--outer\nContent-Type: text/plain\n\nsee attachment\n'
        b"--outer\nContent-Type: message/rfc822\nContent-Transfer-Encoding: %b\n\n%b\n--outer--\n"
    )
    assert read(forwarded % (encoding.encode(), attached)) == read(raw)


def test_an_answer_with_our_mail_attached_is_left_to_a_person() -> None:
    """What we sent is no report, whatever it says."""
    answer = (
        f"From: Ana <ana@example.org>\nTo: {TOKEN}@bounces.example.com\nSubject: FW: Your parcel\n"
        "Content-Type: message/rfc822\n\nFrom: mail@example.com\nSubject: Your parcel could not be delivered\n\n"
        "ana@example.org: it was not delivered\n"
    )
    assert read(answer.encode()).problem == NO_BOUNCE


def test_a_report_that_quotes_only_our_sender_condemns_nobody() -> None:
    """The remote server does not know the address in our From, as a reply to us may say too."""
    raw = sample("postfix-unknown-user")
    quoting = raw.replace(b"550 5.1.1 <ana@example.org>", b"550 5.1.1 <billing@example.com>")
    assert quoting != raw
    assert [one.severity for one in read(quoting).receipts] == ["soft"]


@pytest.mark.parametrize(
    "to",
    [
        "Ana <ana@example.org>",
        '"bea@example.org" <ana@example.org>',
        "ana@example.org (Bea)",
        "ana@example.org, bea@example.org",
        "(a " * 300 + "<ana@example.org>",
        "a:" * 300 + "<ana@example.org>",
        "<" * 300 + "ana@example.org>",
    ],
)
@pytest.mark.parametrize(("final", "severity"), [("ana", "hard"), ("bea", "soft")])
def test_recipient_of_the_returned_mail_is_read_however_it_is_written(to: str, final: str, severity: str) -> None:
    """Names, comments and groups, however deep, do not hide the address that our mail went to."""
    raw = sample("postfix-unknown-user").replace(
        b"Final-Recipient: rfc822; ana@example.org", f"Final-Recipient: rfc822; {final}@example.org".encode()
    )
    raw = raw.replace(b"\r\nTo: Ana <ana@example.org>\r\n", f"\r\nTo: {to}\r\n".encode())
    assert to.encode() in raw
    assert [one.severity for one in read(raw).receipts] == [severity]


def test_number_of_a_character_in_an_address_is_read() -> None:
    """A server that takes ASCII alone writes an international address with the numbers of its characters (RFC 6533)."""
    raw = sample("postfix-smtputf8").replace(
        "Final-Recipient: utf-8; jörg".encode(), rb"Final-Recipient: utf-8; j\x{F6}rg"
    )
    (receipt,) = read(raw).receipts
    assert (receipt.address, receipt.severity) == ("jörg@example.org", "hard")


def test_base64_with_a_footer_is_read() -> None:
    """A list or a virus scanner adds its text behind a part in base64, whose content stays readable."""
    report = base64.encodebytes(b"Final-Recipient: rfc822; ana@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n")
    assert b"=" not in report
    raw = sample("orange-base64-report")
    begin = raw.index(b"\r\n\r\n", raw.index(b"message/delivery-status"))
    raw = raw[:begin] + b"\r\n\r\n" + report + b"-- \r\nScanned by example.net!" + raw[raw.index(b"\r\n--", begin) :]
    (receipt,) = read(raw).receipts
    assert (receipt.severity, receipt.code) == ("hard", "5.1.1")


@pytest.mark.parametrize("name", ["mail-ru", "yahoo", "exchange-2003", "kddi", "netease"])
def test_our_subject_in_a_bounce_does_not_make_it_a_delay(name: str) -> None:
    """A bounce that repeats "Your flight is delayed" in its subject is a bounce."""
    raw = re.sub(rb"(?m)^(Subject: [^\r\n]*)", rb"\1: Your flight is delayed", sample(name), count=1)
    assert [one.severity for one in read(raw).receipts] == [one.severity for one in RECEIPTS[name]]


def test_nested_parts_are_found_in_their_order() -> None:
    """Parts of parts come in the order of the mail, and an attached mail is one part."""
    headers, parts = parts_of(with_line_feeds(sample("gmail-not-found")))
    assert headers.get("from").startswith("Mail Delivery Subsystem")
    assert [part.content_type for part in parts] == [
        "text/plain", "text/html", "image/png", "message/delivery-status", "message/rfc822",
    ]  # fmt: skip


def test_samples_name_no_real_domain() -> None:
    """The samples use addresses of documentation alone (RFC 2606), but for the sender in Microsoft's form."""
    allowed = ("example", "example.com", "example.org", "example.net")
    for path in Path(FOLDER).glob("*.eml"):
        text = path.read_bytes().decode("latin-1")
        for word in text.replace("<", " ").replace(">", " ").replace(";", " ").split():
            domain = word.rpartition("@")[2].strip(".,:)('\"").lower()
            if "@" in word and "." in domain and domain != "hotmail.com":
                assert domain.endswith(allowed), (path.name, word)
