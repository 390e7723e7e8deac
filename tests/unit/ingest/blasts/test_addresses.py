"""Addresses: one normal form each, and fast paths that always agree with the libraries."""

from __future__ import annotations

import re

import phonenumbers
import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.blasts.addresses import AddressError, normal_email, normal_phone
from shared.addresses import identity

_MARKS = st.sampled_from(["\u200e", "\u202a", "\ufeff", "\u00a0", ""])
_ATOM = st.text("abcXYZ019.+-_!#'éü", min_size=1, max_size=12)
_LABEL = st.text("abcXYZ019-é", min_size=1, max_size=8)
_EMAILS = st.builds("{}@{}".format, _ATOM, st.lists(_LABEL, min_size=1, max_size=4).map(".".join))
_STARTS = st.sampled_from(["+62", "62", "0", "+1", "8", "+44 ", ""])
_PHONES = st.builds("{}{}".format, _STARTS, st.from_regex(r"[0-9 -]{5,13}", fullmatch=True))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_EMAILS)
def test_email_addresses_are_checked_by_the_library(text: str) -> None:
    """The fast path and the library return the same normal form, or both refuse the text."""
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
def test_impossible_phone_numbers_are_refused(text: str) -> None:
    """The result is valid by the library's metadata, is its own normal form, and drops only a trunk prefix."""
    try:
        digits = normal_phone(text, "ID")
    except AddressError:
        return
    number = phonenumbers.parse(f"+{identity(digits)}", None)
    assert phonenumbers.is_valid_number(number)
    assert normal_phone(f"+{digits}", "ID") == digits
    written = "".join(re.findall("[0-9]", text))
    national = phonenumbers.national_significant_number(number)
    assert written.endswith(national)
    # before the national number: the country code or none, and the trunk prefix, such as 0 or the 1 of +1 1 201 …
    trunk = "1" if number.country_code == 1 else ""
    before = written.removesuffix(national).replace("0", "")
    assert before in {"", str(number.country_code), f"{number.country_code}{trunk}"}


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
    """Country codes, spaces and dashes are optional."""
    assert normal_phone(text, region) == digits


@pytest.mark.parametrize(
    "text", ["a@b", "a b@example.com", "a@example.com\nBcc: x@y.z", "a@x.local", "@example.com", "x" * 400]
)
def test_text_that_is_not_an_email_address_is_refused(text: str) -> None:
    """Texts that are not email addresses are refused, above all those with line breaks."""
    with pytest.raises(AddressError):
        normal_email(text)


@given(_MARKS, _MARKS)
def test_marks_around_an_address_are_ignored(before: str, after: str) -> None:
    """Invisible marks, which come with text copied from pages and messages, are stripped."""
    assert normal_email(f"{before}siti@example.com{after} ") == "siti@example.com"
    assert normal_phone(f"{before}0812 2477 2000{after} ", "ID") == "6281224772000"
