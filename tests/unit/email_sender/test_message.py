"""Messages: for any content, a frame's message equals the one that Python's `email` builds."""

from __future__ import annotations

import time
from dataclasses import replace
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.email_sender.message import MOST_FRAME_BYTES, Frame, Frames, Mail
from services.email_sender.mime import clean
from services.email_sender.settings import MailSettings
from shared.errors import PermanentError, StopBlastError
from shared.jobs import Attachment, Recipient
from shared.templates import Template, Variable
from shared.unsubscribe import read_token
from tests.integration.email_sender.mails import MAIL, Content, fill, make_blast, make_job, make_mail
from tests.unit.email_sender.reference import display_name, parse, reference, structure

# every plane, long runs without a space, and what breaks lines, headers, dots and boundaries
CHARACTERS = st.characters(exclude_categories=["Cs"])
BREAKS = ["\r\n", "\n", "\r", ".", "\n.", "\r\n.\r\n", "\r\n.\r\nMAIL FROM:<x@y>\r\n", "\u2028", "\x85", "\0", "\t"]
MARKS = ["=?utf-8?b?", "?=", "=?utf-8?b?w6k=?=", '"', "\\", "<a@b>", "=", " ", "--=_", "From ", "\r\nBcc: x@y"]
LETTERS = ["é", "日本語", "🚚", "\U000e0041", "\U0010ffff", "x" * 1100, "é" * 600, "x " * 600]
NASTY = st.sampled_from([*BREAKS, *MARKS, *LETTERS])
TEXTS = st.lists(st.one_of(NASTY, st.text(CHARACTERS, max_size=12)), max_size=8).map("".join)
ATTACHMENTS = st.builds(
    Attachment, TEXTS.filter(clean), st.sampled_from(["application/pdf", "image/png"]), st.binary(max_size=200)
)
CONTENTS = st.builds(
    Content,
    subject=TEXTS.map(lambda text: text[:900]),
    name=TEXTS,
    text=TEXTS,
    html=st.none() | TEXTS,
    attachments=st.lists(ATTACHMENTS, max_size=2),
    own_attachments=st.lists(ATTACHMENTS, max_size=1),
)
THOROUGH = settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@THOROUGH
@given(content=CONTENTS, eight_bit=st.booleans())
def test_message_equals_what_emailmessage_makes(content: Content, eight_bit: bool) -> None:
    """All headers and parts are equal, with every Unicode plane, long lines, leading dots, and CR and LF anywhere."""
    raw = fill(content).encode(eight_bit=eight_bit)
    parsed = parse(raw)
    headers: dict[str, str | Address] = {
        "From": Address("Shop", addr_spec="shop@example.com"),
        "To": Address(clean(content.name), addr_spec="ana@example.com"),
        "Subject": clean(content.subject),
    }
    attachments = [*content.attachments, *content.own_attachments]
    named = [Attachment(clean(one.filename), one.content_type, one.content) for one in attachments]
    expected = reference(headers, content.text, content.html, named)
    assert str(parsed["From"]) == str(expected["From"])
    assert parsed["Subject"] == headers["Subject"]
    assert display_name(raw) == clean(content.name)
    # EmailMessage decodes text that looks like an encoded word; Kurir keeps it as written
    if "=?" not in content.subject + content.name:
        assert parsed["Subject"] == expected["Subject"]
        assert display_name(raw) == expected["To"].addresses[0].display_name
    assert parsed["To"].addresses[0].addr_spec == "ana@example.com"
    dispositions = [part["Content-Disposition"] for part in parsed.iter_attachments()]
    # not by get_filename, which unquotes twice: "<a>" would become "a"
    assert [one.params["filename"] for one in dispositions] == [one.filename for one in named]
    assert structure(parsed) == structure(expected)
    assert_fit_for_the_wire(raw, eight_bit=eight_bit)


def assert_fit_for_the_wire(raw: bytes, *, eight_bit: bool) -> None:
    """Assert that only CRLF ends lines of at most 998 bytes, without NUL, and beyond ASCII only if allowed."""
    assert raw.endswith(b"\r\n")
    assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert b"\0" not in raw
    assert eight_bit or raw.isascii()


def test_no_field_can_add_a_header() -> None:
    """A line break in a name, a subject or a file name does not end the header: there are only the frame's headers."""
    evil = "x\r\nBcc: victim@example.com\r\n\r\nbody"
    attachment = Attachment(evil, "application/pdf\r\nX-Evil: 1", b"data")
    parsed = parse(fill(Content(subject=evil, name=evil, own_attachments=[attachment])).encode(eight_bit=True))
    names = ["From", "To", "Subject", "Date", "Message-ID", "X-Kurir-Job", "MIME-Version", "Content-Type"]
    assert parsed.keys() == names
    (part,) = parsed.iter_attachments()
    assert part.keys() == ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "MIME-Version"]
    assert part.get_content_type() == "application/octet-stream"


@pytest.mark.parametrize("field", ["from_address", "reply_to"])
@pytest.mark.parametrize("value", ["Shop <shop@example.com>\r\nBcc: x@example.com", "nonsense", "a b@example.com", "@"])
def test_blast_with_a_bad_mailbox_is_refused(field: str, value: str) -> None:
    """No message is made if the blast's from or reply address is not a mailbox."""
    with pytest.raises(PermanentError, match="from or reply address"):
        Frame(make_blast(**{field: value}), MAIL)


def test_headers_of_a_transactional_message() -> None:
    """It has the blast's sender and reply address, its own Message-ID, the job, the date, and no unsubscribe link."""
    blast = make_blast("b7", from_address="Tokó <toko@münchen.example>", reply_to='"Help, Inc" <help@example.com>')
    parsed = parse(Frame(blast, MAIL).fill(make_job(index=3, run=2, blast_id="b7")).encode(eight_bit=False))
    (sender,) = parsed["From"].addresses
    assert (sender.display_name, sender.addr_spec) == ("Tokó", "toko@xn--mnchen-3ya.example")
    assert str(parsed["Reply-To"]) == '"Help, Inc" <help@example.com>'
    assert parsed["Message-ID"] == "<b7.3.email.2@xn--mnchen-3ya.example>"
    assert parsed["X-Kurir-Job"] == "b7:3:email"
    assert abs(parsed["Date"].datetime.timestamp() - time.time()) < 60
    assert parsed["List-Unsubscribe"] is None


def test_postmark_gets_the_job_as_metadata_too() -> None:
    """Its webhooks repeat that, and neither the Message-ID nor other headers; other servers do not see it."""
    parsed = parse(Frame(make_blast("b7"), replace(MAIL, with_metadata=True)).fill(make_job()).encode(eight_bit=False))
    assert parsed["X-PM-Metadata-kurir-job"] == parsed["X-Kurir-Job"]
    assert parse(fill(Content()).encode(eight_bit=False))["X-PM-Metadata-kurir-job"] is None


def test_marketing_mail_can_be_unsubscribed_with_one_click() -> None:
    """List-Unsubscribe has an https link and the configured mailbox; -Post announces the one click (RFC 8058)."""
    template = Template(
        id="t", name="T", channels=["email"], category="marketing", subject="s", text="Out: {{ unsubscribe_url }}"
    )
    parsed = parse(make_mail("ana@example.com", template=template).encode(eight_bit=False))
    https, mail_to = (link.strip(" <>") for link in parsed["List-Unsubscribe"].split(","))
    token = https.removeprefix("https://kurir.example.com/u/")
    assert read_token("secret", token) == ("email", "ana@example.com")
    assert mail_to == f"mailto:out@example.com?subject=unsubscribe%20{token}"
    assert parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert parsed.get_content() == f"Out: {https}\r\n"


def marketing(mail: MailSettings = MAIL, template_id: str = "monthly_news", **changes: Any) -> EmailMessage:
    template = Template(template_id, "Kabar é, bulanan", ["email"], category="marketing", subject="s", text="x")
    return parse(Frame(make_blast("b7", template=template, **changes), mail).fill(make_job()).encode(eight_bit=False))


def test_no_mailbox_that_nobody_reads_is_offered() -> None:
    """Without KURIR_UNSUBSCRIBE_EMAIL the header has only the one-click link."""
    assert "mailto" not in marketing(replace(MAIL, unsubscribe_to=""))["List-Unsubscribe"]


def test_marketing_mail_names_its_list_and_its_feedback() -> None:
    """List-Id is a name and an id under the From domain; Feedback-ID has four fields, the last 5 to 15 long."""
    message = marketing(from_address="shop@News.example.com")
    assert message["List-Id"] == "Kabar é, bulanan <monthly-news.news.example.com>"
    campaign, customer, kind, sender = message["Feedback-ID"].split(":")
    assert (campaign, customer, kind) == ("b7", "news.example.com", "monthly-news")
    assert 5 <= len(sender) <= 15
    assert marketing(template_id="другой", from_address="shop@News.example.com")["Feedback-ID"].split(":")[3] == sender
    transactional = parse(make_mail().encode(eight_bit=False))
    assert {"List-Id", "Feedback-ID", "List-Unsubscribe"} & set(transactional.keys()) == set()


@pytest.mark.parametrize("url", ["http://kurir.example.com", "https://127.0.0.1:3000", "https://kurir.local", ""])
def test_marketing_mail_whose_link_would_not_work_stops_its_blast(url: str) -> None:
    """It is neither sent nor lost: the blast pauses with the reason. Sandboxed mail needs no link."""
    with pytest.raises(StopBlastError, match="KURIR_PUBLIC_URL"):
        marketing(replace(MAIL, public_url=url))
    assert marketing(replace(MAIL, public_url=url, sandboxed=True))["List-Unsubscribe"]
    Frame(make_blast(), replace(MAIL, public_url=url))


def test_bounces_go_to_the_return_path() -> None:
    """The settings give the envelope's sender, whatever the blast's sender; without it, it is the From address."""
    mail = replace(MAIL, return_path="bounces@example.com")
    assert (
        Frame(make_blast(from_address="a@news.example.com"), mail).fill(make_job()).envelope.sender == mail.return_path
    )
    assert (
        Frame(make_blast(from_address="a@news.example.com"), MAIL).fill(make_job()).envelope.sender
        == "a@news.example.com"
    )


def test_missing_variable_is_named_in_the_reason() -> None:
    """A message that cannot be rendered fails permanently, and the reason names the variable."""
    variable = Variable("total", "number", example=1)
    template = Template(id="t", name="T", channels=["email"], subject="{{ total }}", text="x", variables=[variable])
    with pytest.raises(PermanentError, match="total"):
        make_mail(template=template)


@pytest.mark.parametrize(
    ("address", "recipient", "utf8"),
    [
        ("ana@example.com", "ana@example.com", False),
        ("ana@münchen.example", "ana@xn--mnchen-3ya.example", False),
        ("jörg@münchen.example", "jörg@xn--mnchen-3ya.example", True),
    ],
)
def test_only_a_local_part_beyond_ascii_needs_smtputf8(address: str, recipient: str, utf8: bool) -> None:
    """A domain is sent in ASCII; a local part beyond ASCII needs SMTPUTF8 and is unchanged in To."""
    mail = make_mail(address)
    assert (mail.envelope.recipient, mail.envelope.utf8) == (recipient, utf8)
    assert f"<{recipient}>".encode() in mail.head


@pytest.mark.parametrize("address", ["a b@example.com", "a@b\r\nRCPT TO:<c@d>", "a>@b.example", "ä@-.example"])
def test_address_unfit_for_a_command_is_refused(address: str) -> None:
    """Text that could break out of an SMTP command, or is not an address, fails permanently before it is sent."""
    with pytest.raises(PermanentError, match="address"):
        make_mail(address)


def test_resent_message_keeps_its_id_and_its_boundary() -> None:
    """A repeated attempt sends the same message, with the same Message-ID and boundary."""
    frames = Frames(MAIL)
    first, second = (frames.get(make_blast()).fill(make_job()) for _ in range(2))
    assert first.message_id == second.message_id
    assert first.body.encode(eight_bit=True) == second.body.encode(eight_bit=True)


def test_frames_are_bounded() -> None:
    """A sender keeps the last used frames: a thousand small ones, and never more bytes than its bound."""
    frames = Frames(MAIL)
    first = frames.get(make_blast("first"))
    for number in range(1000):
        frames.get(make_blast(f"b{number}"))
    assert frames.get(make_blast("first")) is first
    for number in range(1000, 1000 + MOST_FRAME_BYTES // first.size):
        frames.get(make_blast(f"b{number}"))
    assert frames.get(make_blast("first")) is not first
    big = Attachment("f", "image/png", bytes(30 * 1024 * 1024))
    one = frames.get(make_blast("big1", attachments=[big]))
    frames.get(make_blast("big2", attachments=[big]))
    assert frames.get(make_blast("big1", attachments=[big])) is not one


def test_empty_parts_and_attachments() -> None:
    """An empty text, an empty HTML and an attachment of no bytes make a valid message."""
    mail: Mail = fill(Content(text="", html="", attachments=[Attachment("empty", "text/plain", b"")]))
    kinds = [kind for kind, *_ in structure(parse(mail.encode(eight_bit=False)))]
    assert kinds == ["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "text/plain"]


def test_recipient_of_own_variables_and_attachments() -> None:
    """A recipient's variables and attachments are only in that recipient's message."""
    frame = Frame(make_blast(), MAIL)
    own = Attachment("tagihan é.pdf", "application/pdf", b"%PDF")
    recipient = Recipient("bo@example.com", "Bo", {}, "", [own])
    with_own = parse(frame.fill(make_job(recipient=recipient)).encode(eight_bit=False))
    without = parse(frame.fill(make_job()).encode(eight_bit=False))
    assert [part.get_filename() for part in with_own.iter_attachments()] == ["tagihan é.pdf"]
    assert not list(without.iter_attachments())
