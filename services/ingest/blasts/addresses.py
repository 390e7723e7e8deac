"""Addresses: a client's text becomes one normal form per channel, or a problem.

Email addresses have email-validator's normal form, without a DNS lookup; `.test` domains are allowed, other
special-use names (`.local`, `.invalid` …) are not. Phone numbers are E.164 digits without `+`, valid by phonenumbers'
metadata, or the number of a WhatsApp account where that differs. Both libraries take tens of microseconds; plain ASCII
takes a fast path with the same result, which a test compares with the libraries over generated input. Neither form can
contain a line break, a space outside a quoted local part, or a control character, so neither can break out of a header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from re import Pattern

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from email_validator.rfc_constants import ATEXT, CASE_INSENSITIVE_MAILBOX_NAMES
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberType

from services.ingest.blasts.phone_text import PhoneTextError, groups, phone_digits
from services.ingest.http.errors import Problem
from shared.addresses import INVISIBLE, identity

MAX_EMAIL_CHARS = 320

# labels without "--" are neither punycode nor reserved; a last label of letters is neither a number nor an IP address
_LABEL = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
_PLAIN_EMAIL = re.compile(rf"([{ATEXT}]+(?:\.[{ATEXT}]+)*)@((?:{_LABEL}\.)+([A-Za-z]{{2,63}}))")
_LONGEST_PLAIN = 254
_LONGEST_LABEL = 63
_SPECIAL_ENDINGS = frozenset({"arpa", "invalid", "local", "localhost", "onion"})
_ROLE_NAMES = frozenset(CASE_INSENSITIVE_MAILBOX_NAMES)
_FEWEST_DIGITS, _MOST_DIGITS = 7, 15  # E.164 allows 15; no country has fewer than 7 with its code
_FEWEST_WITHOUT_CODE = _FEWEST_DIGITS - 3
_NAMED = re.compile(r"(?P<name>[^<>]*+)<(?P<address>[^<>]*+)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"')
# a display name of these needs no quotes (RFC 5322, section 3.2.3), other alphabets aside
_SPECIALS = re.compile(r"[()<>\[\]:;@\\,.\"]")
MAX_NAME_CHARS = 200


class AddressError(ValueError):
    """A text that is not a valid address; the message tells the client why."""


def normal_email(text: str) -> str:
    """Return the normal form of an email address; raises AddressError."""
    text = text.strip(INVISIBLE)
    return _plain_email(text) or _any_email(text)


def _plain_email(text: str) -> str | None:
    """Return the normal form of a plain ASCII address, None if the library has to decide."""
    found = _PLAIN_EMAIL.fullmatch(text)
    if found is None or len(text) > _LONGEST_PLAIN:
        return None
    local, domain, ending = found.groups()
    if ending.lower() in _SPECIAL_ENDINGS:
        return None
    if len(domain) > _LONGEST_LABEL and any(len(label) > _LONGEST_LABEL for label in domain.split(".")):
        return None
    lowered = local.lower()
    return f"{lowered if lowered in _ROLE_NAMES else local}@{domain.lower()}"


def _any_email(text: str) -> str:
    if len(text) > MAX_EMAIL_CHARS:
        raise AddressError(f"The email address is longer than {MAX_EMAIL_CHARS} characters.")
    if "@" not in text:
        raise AddressError("An email address must have an @-sign.")
    try:
        # the only effect of test_environment is to allow .test domains
        return validate_email(text, check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError as error:
        raise AddressError(str(error)) from None


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
    return _formatted(_valid(digits, region)) or international


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
    kind = phonenumbers.number_type(number)
    return kind in {PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE}


def _valid(text: str, region: str | None) -> PhoneNumber | None:
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException:
        return None
    return number if phonenumbers.is_valid_number(number) else None


def normal_address(channel: str, text: str, region: str, field: str) -> str | Problem:
    """Return the normal form of a channel's address, or the problem of `field`."""
    try:
        return normal_email(text) if channel == "email" else normal_phone(text, region)
    except AddressError as error:
        code = "INVALID_EMAIL" if channel == "email" else "INVALID_PHONE"
        return Problem(field, code, str(error))


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name, "" for none, and an address in normal form."""

    name: str
    address: str

    def __str__(self) -> str:
        """Format it as RFC 5322 does, with the name in its own alphabet."""
        if not self.name:
            return self.address
        escaped = re.sub(r'(["\\])', r"\\\1", self.name)
        return f'"{escaped}" <{self.address}>' if _SPECIALS.search(self.name) else f"{self.name} <{self.address}>"


def read_mailbox(text: str, field: str) -> Mailbox | Problem:
    """Read a mailbox, or return the problem of the field."""
    if not text.strip():
        return Problem(field, "REQUIRED", f"no sender address is given: set {field}, or configure KURIR_EMAIL_FROM")
    if not text.isprintable():
        return Problem(field, "INVALID_CHARACTERS", f"{field} contains line breaks or control characters")
    named = _NAMED.fullmatch(text.strip())
    name, address = (named["name"].strip(), named["address"]) if named else ("", text)
    quoted = _QUOTED.fullmatch(name)
    if quoted:
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    if len(name) > MAX_NAME_CHARS:
        return Problem(field, "TOO_LONG", f"the name in {field} is longer than {MAX_NAME_CHARS} characters")
    try:
        return Mailbox(name, normal_email(address))
    except AddressError as error:
        return Problem(field, "INVALID_EMAIL", str(error))
