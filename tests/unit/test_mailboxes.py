"""Mailboxes: one normal form for every email address, and one reading of `Name <address>`."""

from __future__ import annotations

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.addresses import AddressError
from shared.mailboxes import Mailbox, normal_email, parse_mailbox, smtp_address, smtp_domain

_MARKS = st.sampled_from(["\u200e", "\u202a", "\ufeff", "\u00a0", ""])
_ATOM = st.text("abcXYZ019.+-_!#'éü", min_size=1, max_size=12)
_LABEL = st.text("abcXYZ019-é", min_size=1, max_size=8)
_EMAILS = st.builds("{}@{}".format, _ATOM, st.lists(_LABEL, min_size=1, max_size=4).map(".".join))
_NAMES = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="<>"), max_size=20).filter(
    lambda name: name.isprintable() and name == name.strip()
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_EMAILS)
def test_email_addresses_are_checked_by_the_library(text: str) -> None:
    """The fast path and the library return the same normal form, or both refuse the text."""
    try:
        expected = validate_email(text.lstrip("'"), check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError:
        with pytest.raises(AddressError):
            normal_email(text)
    else:
        assert normal_email(text) == expected
        assert normal_email(expected) == expected


@pytest.mark.parametrize(
    "text", ["a@b", "a b@example.com", "a@example.com\nBcc: x@y.z", "a@x.local", "@example.com", "x" * 400]
)
def test_text_that_is_not_an_email_address_is_refused(text: str) -> None:
    """Texts that are not email addresses are refused, above all those with line breaks."""
    with pytest.raises(AddressError):
        normal_email(text)


@given(_MARKS, _MARKS)
def test_marks_around_an_email_are_ignored(before: str, after: str) -> None:
    """Invisible marks, which come with text copied from pages and messages, are stripped."""
    assert normal_email(f"{before}siti@example.com{after} ") == "siti@example.com"


@pytest.mark.parametrize("mark", ["'", "\u2018", "\u2019", "`", "\ufeff'", "''"])
@pytest.mark.parametrize("address", ["siti@example.com", "o'brien@example.com", "siti@m\u00fcnchen.de"])
def test_a_spreadsheets_mark_for_text_is_not_part_of_an_email(mark: str, address: str) -> None:
    """Shop systems put an apostrophe before each cell; the mail would go to a mailbox that nobody has."""
    assert normal_email(f"{mark}{address}") == normal_email(address) == address


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a@EXAMPLE.com", "a@example.com"),
        ("<a@example.com>", "a@example.com"),
        ("Ann <a@example.com>", "Ann <a@example.com>"),
        ('"Ann, Bo" <a@example.com>', '"Ann, Bo" <a@example.com>'),
        ('"Shop@Home" <a@example.com>', '"Shop@Home" <a@example.com>'),
        ('Ann "the" Bo <a@example.com>', '"Ann \\"the\\" Bo" <a@example.com>'),
        ("Shop: Jakarta <a@example.com>", '"Shop: Jakarta" <a@example.com>'),
        ("Tokó [ID] <a@example.com>", '"Tokó [ID]" <a@example.com>'),
        ("Dr. Ann (Shop) <a@example.com>", '"Dr. Ann (Shop)" <a@example.com>'),
        ("Ibu Sitì <a@example.com>", "Ibu Sitì <a@example.com>"),
    ],
)
def test_a_written_mailbox_parses_to_the_same_value(text: str, written: str) -> None:
    """The name is quoted where RFC 5322 requires it, and reading the result gives the same mailbox."""
    mailbox = parse_mailbox(text)
    assert str(mailbox) == written
    assert parse_mailbox(written) == mailbox


@given(_NAMES)
def test_any_name_survives_writing_and_reading(name: str) -> None:
    """Quotes, backslashes, commas and @-signs in a name stay in the name."""
    mailbox = Mailbox(name, "a@example.com")
    assert parse_mailbox(str(mailbox)) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        "a@example.com, b@example.com",
        "a@example.com;b@example.com",
        "a@example.com b@example.com",
        "Shop, Inc <a@example.com>",
        "Shop; Inc <a@example.com>",
        "Shop@Home <a@example.com>",
        "boss@example.org, Shop <a@example.com>",
    ],
)
def test_text_that_may_mean_two_mailboxes_is_refused(text: str) -> None:
    """No part is dropped silently, and no part of the name is taken for the address."""
    with pytest.raises(AddressError, match="more than one mailbox"):
        parse_mailbox(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ann",
        "Ann <>",
        "Ann <a@b>",
        "Ann <a@example.com> Bo",
        "Ann <a@example.com>, Bo <b@example.com>",
        "A\r\nB <a@example.com>",
        "a@example.com\nBcc: b@example.com",
        "a@example.com\0",
        "a@localhost",
        "a@mail.local",
        "@example.com",
        "a@example.com (Ann)",
        '"ab"@example.com',
    ],
)
def test_text_that_is_not_a_mailbox_is_refused(text: str) -> None:
    """Above all, line breaks and control characters; comments and local parts in quotes are not supported."""
    with pytest.raises(AddressError):
        parse_mailbox(text)


def test_a_mailbox_has_an_ascii_domain_for_smtp() -> None:
    """Only a local part beyond ASCII needs SMTPUTF8."""
    for written in ("Tokó <toko@München.example>", "Tokó <toko@xn--mnchen-3ya.example>"):
        mailbox = parse_mailbox(written)
        assert mailbox == Mailbox("Tokó", "toko@münchen.example")
        assert mailbox.domain == "xn--mnchen-3ya.example"
        assert mailbox.smtp_address == "toko@xn--mnchen-3ya.example"
    assert parse_mailbox("jörg@example.com").smtp_address == "jörg@example.com"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_EMAILS)
def test_a_sender_and_a_recipient_have_the_same_form(text: str) -> None:
    """A mailbox's address for SMTP is that of the same address as a recipient."""
    try:
        mailbox = parse_mailbox(text)
    except AddressError:
        return
    assert smtp_address(mailbox.address) == mailbox.smtp_address
    assert smtp_domain(mailbox.domain) == mailbox.domain


@pytest.mark.parametrize(
    "text", ["a b@example.com", "<a@example.com>", "a@example.com\r\nRCPT TO:<b@example.com>", "é"]
)
def test_an_address_cannot_break_a_command(text: str) -> None:
    """An address with spaces, brackets or control characters never reaches the server."""
    with pytest.raises(AddressError):
        smtp_address(text)
