"""Addresses: one normal form, and short cuts that never disagree with the libraries they cut short."""

from __future__ import annotations

import phonenumbers
import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.addresses import AddressError, normal_email, normal_phone

_ATOM = st.text("abcXYZ019.+-_!#'éü", min_size=1, max_size=12)
_LABEL = st.text("abcXYZ019-é", min_size=1, max_size=8)
_EMAILS = st.builds("{}@{}".format, _ATOM, st.lists(_LABEL, min_size=1, max_size=4).map(".".join))
_STARTS = st.sampled_from(["+62", "62", "0", "+1", "8", "+44 ", ""])
_PHONES = st.builds("{}{}".format, _STARTS, st.from_regex(r"[0-9 -]{5,13}", fullmatch=True))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_EMAILS)
def test_an_email_is_what_the_library_says(text: str) -> None:
    """The same normal form, or refused by both."""
    try:
        expected = validate_email(text, check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError:
        with pytest.raises(AddressError):
            normal_email(text)
    else:
        assert normal_email(text) == expected
        assert normal_email(expected) == expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_PHONES)
def test_a_phone_number_is_one_that_can_exist(text: str) -> None:
    """What comes out is valid by the library's metadata, and comes out again the same."""
    try:
        digits = normal_phone(text, "ID")
    except AddressError:
        return
    assert phonenumbers.is_valid_number(phonenumbers.parse(f"+{digits}", None))
    assert normal_phone(f"+{digits}", "ID") == digits


@pytest.mark.parametrize(
    ("text", "region", "digits"),
    [
        ("0812-3456-7890", "ID", "6281234567890"),
        ("+62 812 3456 7890", "ID", "6281234567890"),
        ("6281234567890", "ID", "6281234567890"),
        ("81234567890", "ID", "6281234567890"),
        ("+1 (212) 555-0123", "ID", "12125550123"),
        ("0171 2345678", "DE", "491712345678"),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, region: str, digits: str) -> None:
    """With the country's code or without, with spaces and dashes."""
    assert normal_phone(text, region) == digits


@pytest.mark.parametrize(
    "text", ["a@b", "a b@example.com", "a@example.com\nBcc: x@y.z", "a@x.local", "@example.com", "x" * 400]
)
def test_what_is_no_email_is_refused(text: str) -> None:
    """Line breaks above all."""
    with pytest.raises(AddressError):
        normal_email(text)


@pytest.mark.parametrize("text", ["12", "0800 FLOWERS", "+62 812 3456 7890 ext 5", "+999123456789", "1" * 70])
def test_what_is_no_phone_number_is_refused(text: str) -> None:
    """Letters are not read as a keypad."""
    with pytest.raises(AddressError):
        normal_phone(text, "ID")
