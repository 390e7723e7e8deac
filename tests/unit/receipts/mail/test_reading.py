"""Reading bounce mail: times, identities and what decides between hard and soft."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.receipts.mail.mime import parts_of, with_line_feeds
from services.receipts.mail.reading import read_mail
from shared.receipts import make_return_token
from tests.unit.receipts.mail.expected import JOB_ID
from tests.unit.receipts.mail.reading_samples import FOLDER, SECRET, TAKEN_AT, read, sample

_SENT = 1_795_857_302.0  # Sat, 28 Nov 2026 09:15:02 +0000


def test_time_is_the_last_attempt_else_the_date() -> None:
    """The report's last attempt counts, then the mail's Date; both are equal however often the mail comes."""
    assert read(sample("postfix-unknown-user")).receipts[0].at == _SENT
    assert read(sample("sendmail-unknown-user")).receipts[0].at == _SENT - 2
    assert read_mail(sample("postfix-unknown-user"), TAKEN_AT + 3600, SECRET) == read(sample("postfix-unknown-user"))


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
