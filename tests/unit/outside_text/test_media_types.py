"""Media types: all forms of RFC 2045 are read, and values that could break out of a header are refused."""

from __future__ import annotations

import pytest

from shared.media_types import parse_media_type


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("application/pdf", "application/pdf"),
        ("Application/PDF", "application/pdf"),
        ("text/calendar; method=REQUEST", "text/calendar; method=REQUEST"),
        ("text/calendar;method=REQUEST;charset=utf-8", "text/calendar; method=REQUEST; charset=utf-8"),
        ('text/calendar; method="REQUEST"; Charset = "UTF-8"', "text/calendar; method=REQUEST; charset=UTF-8"),
        ('application/pdf; name="a b;c.pdf"', 'application/pdf; name="a b;c.pdf"'),
        (r'application/pdf; name="a \"b\" \\ c"', r'application/pdf; name="a \"b\" \\ c"'),
        ("image/svg+xml ; charset=utf-8 ;", "image/svg+xml; charset=utf-8"),
        ("application/vnd.ms-excel.sheet.macroEnabled.12", "application/vnd.ms-excel.sheet.macroenabled.12"),
        ('text/plain; x=""', 'text/plain; x=""'),
    ],
)
def test_a_media_type_is_read_with_its_parameters(text: str, written: str) -> None:
    """Tokens and quoted strings are read, and the written form can be read again."""
    found = parse_media_type(text)
    assert str(found) == written
    assert parse_media_type(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "", "pdf", "application/", "/pdf", "a/b/c", "text/plain charset=utf-8", "text/plain; charset", "text/plain; =x",
        "text/plain; x=a b", 'text/plain; x="a', 'text/plain; x="a"b', "text/plain; x=é", 'text/plain; x="é"',
        "text/plain\r\nBcc: x@example.com", "text/plain; x=a\r\nBcc: y", 'text/plain; x="a\r\n b"',
        "text/plain; x=\x00",
        'text/plain; x="\x7f"', "text/plain; a=1; A=2", "text/plain;; x=1", "text/pl ain", "text/plain, text/html",
    ],
)  # fmt: skip
def test_a_malformed_media_type_is_refused(text: str) -> None:
    """The error has a message for the client."""
    with pytest.raises(ValueError, match="content type"):
        parse_media_type(text)
