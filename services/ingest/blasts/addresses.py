"""Addresses: a client's text becomes one normal form per channel, or a problem.

Email addresses have the form of `shared.mailboxes`. Phone numbers are E.164 digits without `+`, valid by phonenumbers'
metadata, or the number of a WhatsApp account where that differs. The library takes tens of microseconds; plain numbers
take a fast path with the same result, which a test compares with the library over generated input.
"""

from __future__ import annotations

import re
from functools import lru_cache
from re import Pattern

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberType

from services.ingest.blasts.phone_text import PhoneTextError, groups, phone_digits
from services.ingest.http.errors import Problem
from shared.addresses import INVISIBLE, AddressError, identity
from shared.mailboxes import Mailbox, normal_email, parse_mailbox

_FEWEST_DIGITS, _MOST_DIGITS = 7, 15  # E.164 allows 15; no country has fewer than 7 with its code
_FEWEST_WITHOUT_CODE = _FEWEST_DIGITS - 3
MAX_NAME_CHARS = 200
_MOBILE = frozenset({PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE})
# valid as a mailbox's name, but nobody has such a mailbox
_ANY_OF_DOMAIN = re.compile(r"\s*[*%]+@")
_NO_PATTERNS = "This looks like a pattern, but a suppression is of one address. Give each address in full."


def normal_phone(text: str, region: str) -> str:
    """Return the E.164 digits of a phone number, without `+`; raises AddressError.

    A strict grammar accepts one number, or refuses the text with the reason (`phone_text`). Digits without `+` are
    read, in this order, as the region's country code and a mobile number (62812…), as a number within the region
    (0812…, or 812… as spreadsheets leave it), as any country's code and number.
    """
    text = text.strip(INVISIBLE)
    return _plain_phone(text, region) or _any_phone(text, region)


def _plain_phone(text: str, region: str) -> str | None:
    """Return the digits of a plainly written mobile number of the region, None if the library has to decide."""
    shape = _mobile_shape(region)
    found = shape.fullmatch(text) if shape else None
    return None if found is None else f"{phonenumbers.country_code_for_region(region)}{found[1]}"


@lru_cache(maxsize=8)
def _mobile_shape(region: str) -> Pattern[str] | None:
    """Return a pattern for `+62812…`, `62812…` and `0812…`; None where the region's rules are more complex."""
    code = phonenumbers.country_code_for_region(region)
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    if metadata is None or phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(code) != (region,):
        return None
    mobile = metadata.mobile
    if metadata.national_prefix_for_parsing != "0" or mobile is None or not mobile.national_number_pattern:
        return None
    lengths = mobile.possible_length
    # a number that begins like the prefix or the country code is ambiguous: the library decides
    number = rf"(?!0|{code})(?=[0-9]{{{min(lengths)},{max(lengths)}}}\Z)((?:{mobile.national_number_pattern}))"
    return re.compile(rf"(?:\+?{code}|0){number}\Z", re.ASCII) if _contiguous(lengths) else None


def _contiguous(lengths: tuple[int, ...]) -> bool:
    return len(lengths) == max(lengths) - min(lengths) + 1


def _any_phone(text: str, region: str) -> str:
    try:
        digits = phone_digits(text)
    except PhoneTextError as error:
        raise AddressError(str(error)) from None
    last = groups(text)[-1]
    if len(digits) < _FEWEST_WITHOUT_CODE:
        raise AddressError(_shortcoming(digits, last, region))
    found = _reading(digits, region)
    # a single last digit is never part of the number: it is a note, or the end of a second number
    if found is None or (len(last) == 1 and _reading(digits[:-1], region) is not None):
        raise AddressError(_shortcoming(digits, last, region))
    return found


def _shortcoming(digits: str, last: str, region: str) -> str:
    """Return why digits, whose last group is `last`, are not one number."""
    count = len(digits.lstrip("+"))
    if count < _FEWEST_DIGITS:
        digits_word = "digit" if count == 1 else "digits"
        return f"This has {count} {digits_word}, too few for a phone number. Give the number in full."
    if count > _MOST_DIGITS:
        return f"This has {count} digits, but a phone number has at most {_MOST_DIGITS}. Give only one number."
    if _is_cut_off(digits, region):
        code = phonenumbers.country_code_for_region(region)
        return (
            f"This begins with the country code {code}, but has too few digits for a mobile number. "
            "Give the number in full."
        )
    if _reading(digits[: -len(last)], region) is not None:
        return (
            f"This looks like two numbers, or a number and a note: without {last!r} it is valid. Give only one number."
        )
    return "This is not a valid phone number. Check its digits and its country code."


def _reading(digits: str, region: str) -> str | None:
    """Return the E.164 digits, without `+`, of the number that digits stand for; None if they are not a number."""
    if not digits or digits.startswith("+"):
        return _international(digits)
    international = _international(f"+{digits}") if digits[0] != "0" and len(digits) <= _MOST_DIGITS else None
    if international and _is_mobile_of(international, region):
        return international
    if international is None and _is_cut_off(digits, region):
        return None
    return _formatted(_valid(digits, region)) or international


def _is_cut_off(digits: str, region: str) -> bool:
    """Return whether digits without `+` are the region's country code and the beginning of a mobile number.

    As a number within the region, without its trunk prefix, they could be a landline: 62812247 is not 0628 12247.
    """
    code = phonenumbers.country_code_for_region(region)
    if not digits.startswith(str(code)) or not phonenumbers.ndd_prefix_for_region(region, True):
        return False
    found = _valid(digits, region)
    if found is None or phonenumbers.number_type(found) in _MOBILE:
        return False
    return any(_is_mobile_of(f"{digits}{filler * more}", region) for filler in "05" for more in range(1, 7))


def _international(digits: str) -> str | None:
    """Return the digits of a number with its country code, if it is valid or the number of a WhatsApp account."""
    if (found := _valid(digits, None)) is not None:
        return _formatted(found)
    bare = digits[1:]
    return bare if (own := identity(bare)) != bare and _valid(f"+{own}", None) is not None else None


def _formatted(number: PhoneNumber | None) -> str | None:
    return None if number is None else phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:]


def _is_mobile_of(digits: str, region: str) -> bool:
    number = phonenumbers.parse(f"+{digits}", None)
    if number.country_code != phonenumbers.country_code_for_region(region):
        return False
    return phonenumbers.number_type(number) in _MOBILE


def _valid(text: str, region: str | None) -> PhoneNumber | None:
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException:
        return None
    return number if phonenumbers.is_valid_number(number) else None


def normal_address(channel: str, text: str, region: str, field: str) -> str | Problem:
    """Return the normal form of an address to suppress on a channel, or the problem of `field`."""
    if channel == "email" and _ANY_OF_DOMAIN.match(text):
        return Problem(field, "INVALID_EMAIL", _NO_PATTERNS)
    try:
        return normal_email(text) if channel == "email" else normal_phone(text, region)
    except AddressError as error:
        code = "INVALID_EMAIL" if channel == "email" else "INVALID_PHONE"
        return Problem(field, code, str(error))


def read_mailbox(text: str, field: str) -> Mailbox | Problem:
    """Read a mailbox, or return the problem of the field."""
    if not text.strip():
        return Problem(field, "REQUIRED", f"no sender address is given: set {field}, or configure KURIR_EMAIL_FROM")
    if not text.isprintable():
        return Problem(field, "INVALID_CHARACTERS", f"{field} contains line breaks or control characters")
    try:
        mailbox = parse_mailbox(text)
    except AddressError as error:
        return Problem(field, "INVALID_EMAIL", str(error))
    if len(mailbox.name) > MAX_NAME_CHARS:
        return Problem(field, "TOO_LONG", f"the name in {field} is longer than {MAX_NAME_CHARS} characters")
    return mailbox
