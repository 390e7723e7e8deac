"""The header fields that are read from a mail, and the mails that a strict server refuses."""

from __future__ import annotations

import pytest

from services.sandbox.mail import Header, problem_of, read_header


def test_fields_are_read_unfolded_and_decoded() -> None:
    """Folding and RFC 2047 are undone, raw UTF-8 is kept, names are matched in any case."""
    raw = (
        b"Message-ID:\r\n <b.1.email.1@example.com>\r\nSUBJECT: =?utf-8?q?Ol=C3=A1?=\r\n =?utf-8?q?_mundo?=\r\n"
        b"X-Kurir-Job: b:1:email\r\n\r\nSubject: not this\r\n"
    )
    assert read_header(raw) == Header("b:1:email", "<b.1.email.1@example.com>", "Olá mundo")
    assert read_header("Subject: हैलो\r\n\r\n".encode()).subject == "हैलो"


def test_a_header_without_the_fields() -> None:
    """Missing fields are empty, also in a mail without a header."""
    assert read_header(b"\r\nSubject: body\r\n") == Header()
    assert read_header(b"") == Header()


def test_the_first_of_repeated_fields_counts() -> None:
    """A second X-Kurir-Job cannot pass a message off as another job's."""
    assert read_header(b"X-Kurir-Job: a\r\nX-Kurir-Job: b\r\n\r\n").job_id == "a"


@pytest.mark.parametrize("raw", [b"a\nb\r\n", b"a\rb\r\n", b"x" * 999 + b"\r\n", b"ok\r\n" + b"y" * 5000 + b"\r\n"])
def test_malformed_mail_is_refused(raw: bytes) -> None:
    """A bare CR, a bare LF and a line of 999 bytes or more are refused."""
    assert problem_of(raw).startswith("550 5.6.0 ")


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"x" * 998 + b"\r\n", b"A: b\r\n\r\nc\r\n"])
def test_well_formed_mail_is_not(raw: bytes) -> None:
    """A line may have up to 998 bytes."""
    assert problem_of(raw) == ""
