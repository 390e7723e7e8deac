"""Phone numbers: one normal form each."""

from __future__ import annotations

import re

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.blasts.addresses import normal_phone
from shared.addresses import AddressError, identity

_MARKS = st.sampled_from(["\u200e", "\u202a", "\ufeff", "\u00a0", ""])
_STARTS = st.sampled_from(["+62", "62", "0", "+1", "8", "+44 ", ""])
_PHONES = st.builds("{}{}".format, _STARTS, st.from_regex(r"[0-9 -]{5,13}", fullmatch=True))


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


@given(_MARKS, _MARKS)
def test_marks_around_a_number_are_ignored(before: str, after: str) -> None:
    """Invisible marks, which come with text copied from pages and messages, are stripped."""
    assert normal_phone(f"{before}0812 2477 2000{after} ", "ID") == "6281224772000"
