"""Attached files in a message: images beside the HTML, invitations among the alternatives, names in any script."""

from __future__ import annotations

import pytest

from shared.jobs import Attachment
from tests.integration.email_sender.mails import Content, fill
from tests.unit.email_sender.reference import parse

LOGO = Attachment("logo.png", "image/png", b"PNG", "logo")
ICS = b"BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
INVITE = Attachment("invite.ics", "text/calendar; method=REQUEST; charset=utf-8", ICS)
PDF = Attachment("a.pdf", "application/pdf", b"PDF")


def shape(content: Content) -> list[tuple[str, str]]:
    """Return the type and disposition of each part, in order."""
    message = parse(fill(content).encode(eight_bit=True))
    return [(part.get_content_type(), part.get_content_disposition() or "") for part in message.walk()]


def test_an_inline_image_goes_beside_the_html() -> None:
    """An image of the blast or the recipient is in multipart/related with a Content-ID; without HTML it is attached."""
    for content in (
        Content(html='<img src="cid:logo">', attachments=[LOGO, PDF]),
        Content(html='<img src="cid:logo">', attachments=[PDF], own_attachments=[LOGO]),
    ):
        assert shape(content) == [
            ("multipart/mixed", ""), ("multipart/alternative", ""), ("text/plain", ""), ("multipart/related", ""),
            ("text/html", ""), ("image/png", "inline"), ("application/pdf", "attachment"),
        ]  # fmt: skip
        message = parse(fill(content).encode(eight_bit=False))
        (image,) = [part for part in message.walk() if part.get_content_type() == "image/png"]
        assert (image["Content-ID"], image.get_filename()) == ("<logo>", "logo.png")
    assert shape(Content(html=None, attachments=[LOGO]))[-1] == ("image/png", "attachment")


def test_an_invitation_is_the_last_alternative() -> None:
    """It has its method, as Outlook and Gmail expect, and is also attached for programs without a calendar."""
    for html in (None, "<p>Hi</p>"):
        content = Content(html=html, attachments=[INVITE])
        shown = shape(content)
        assert shown[:2] == [("multipart/mixed", ""), ("multipart/alternative", "")]
        assert shown[-2:] == [("text/calendar", ""), ("application/ics", "attachment")]
        message = parse(fill(content).encode(eight_bit=True))
        parts = {part.get_content_type(): part for part in message.walk()}
        calendar = parts["text/calendar"]
        assert (calendar.get_param("method"), calendar.get_content_charset()) == ("REQUEST", "utf-8")
        for part in (calendar, parts["application/ics"]):
            assert (part.get_payload(decode=True), part.get_filename()) == (ICS, "invite.ics")


def test_a_calendar_without_a_method_is_a_file() -> None:
    """It is attached and is not an invitation."""
    plain = Attachment("days.ics", "text/calendar; charset=utf-8", ICS)
    assert shape(Content(html=None, attachments=[plain]))[-1] == ("text/calendar", "attachment")


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("text/csv; charset=utf-8; header=present", {"charset": "utf-8", "header": "present"}),
        ('application/pdf; x="a b;c"', {"x": "a b;c"}),
        (f'application/pdf; x="{"y" * 300}"', {"x": "y" * 300}),
    ],
)
def test_parameters_are_kept(kind: str, parameters: dict[str, str]) -> None:
    """A content type keeps all its parameters, of any kind and length."""
    message = parse(fill(Content(attachments=[Attachment("a", kind, b"x")])).encode(eight_bit=True))
    (part,) = message.iter_attachments()
    assert dict(part["Content-Type"].params) == parameters


@pytest.mark.parametrize("name", ["tagihan é.pdf", "発票.pdf", "счёт " * 40 + ".pdf"])
def test_a_name_of_any_script_is_read(name: str) -> None:
    """The disposition has it according to RFC 2231, and the content type as an encoded word for older programs."""
    raw = fill(Content(attachments=[Attachment(name, "application/pdf", b"x")])).encode(eight_bit=False)
    (part,) = parse(raw).iter_attachments()
    assert part.get_filename() == name
    assert b'name="=?utf-8?b?' in raw
    assert max(map(len, raw.split(b"\r\n"))) <= 998
