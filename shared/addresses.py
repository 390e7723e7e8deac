"""Addresses: the identity of an address, which all its spellings share.

One mailbox has many spellings: `Siti@Example.com` and `siti@example.com`, or `siti@münchen.example` and
`siti@xn--mnchen-3ya.example`. So do some phone numbers, since WhatsApp keeps old forms that the networks abandoned.
A message is sent to the spelling that the client wrote; suppressions, duplicates, limits and searches compare
identities. `ways_written` turns the text of a search into the forms that it may have in addresses and identities.
"""

from __future__ import annotations

import re
from unicodedata import category, decimal, normalize

import idna
import phonenumbers

from shared.errors import KurirError

# Mexico dropped the 1 before mobile numbers in 2019; WhatsApp still uses it for older accounts.
_MEXICO = re.compile(r"521([0-9]{10})")
# Brazil added a 9 before all mobile numbers by 2016; WhatsApp omits it for many accounts (Anatel, resolution 553).
_BRAZIL = re.compile(r"55([1-9][0-9])([6-9][0-9]{7})")

# stripped around an address: spaces, and invisible characters that are copied along with text
INVISIBLE = (
    " \t\r\n\u00a0\u00ad\u061c\u200b\u200c\u200d\u200e\u200f"
    "\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
# a spreadsheet's mark before a text, and what programs make of it; numbers and mailboxes that exist begin with none
TEXT_MARKS = "'\u2018\u2019`"
# all that shows nothing: a text of these alone is no text
BLANK = (
    INVISIBLE + "\v\f\x1c\x1d\x1e\x1f\x85\u115f\u1160\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u2061\u2062\u2063\u2064\u2800\u3000\u3164\ufe0e\ufe0f\uffa0"
)
_SIGNS = dict(zip("\uff0b\ufe62\uff08\uff09\uff0e\uff0f\uff1b\uff0c\u2212", "++()./;,-", strict=True))
_LONGEST_SEARCHED = 320
_SEARCHED_PHONE = re.compile(r"(?:tel:)?[0-9 ().\-/+]*")
_KINDS = {"Zs": " ", "Pd": "-", "Cf": ""}


class AddressError(KurirError, ValueError):
    """A text is not an address of its kind; the message says why, in words for the one who wrote it."""


def identity(address: str) -> str:
    """Return the identity of an address: equal for two spellings of one mailbox or number, else different.

    Takes email addresses and E.164 digits without `+`. The identity of a mailbox is in lower case and NFC, with the
    domain in ASCII (RFC 5891). Never fails: other text becomes lower case.
    """
    if address.isascii():
        return address.lower() if "@" in address else _number(address)
    local, at, domain = address.rpartition("@")
    return normalize("NFC", normalize("NFC", local).lower()) + at + ascii_domain(domain)


def other_identity(address: str) -> str | None:
    """Return the identity of an address, or None if it is the address itself."""
    own = identity(address)
    return own if own != address else None


def is_region(code: str) -> bool:
    """Return whether this is the two-letter code, in capitals, of a country with phone numbers."""
    return code in phonenumbers.SUPPORTED_REGIONS


def ascii_domain(domain: str) -> str:
    """Return a domain in lower case and ASCII; one without an ASCII form only in lower case."""
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return normalize("NFC", domain).lower()


def _number(digits: str) -> str:
    if digits.startswith("521") and (found := _MEXICO.fullmatch(digits)):
        return f"52{found[1]}"
    if digits.startswith("55") and (found := _BRAZIL.fullmatch(digits)):
        return f"55{found[1]}9{found[2]}"
    return digits.lower()


def plain_signs(text: str) -> str:
    """Return text with digits, spaces, dashes and signs of all scripts in ASCII, without invisible characters."""
    return text.strip() if text.isascii() else "".join(map(_plain_sign, text)).strip()


def _plain_sign(sign: str) -> str:
    kind = category(sign)
    if kind == "Nd":
        return str(decimal(sign))
    return _SIGNS.get(sign) or _KINDS.get(kind, sign)


def ways_written(text: str, region: str) -> tuple[str, ...]:
    """Return the forms that a part of an address, as users type it, may have in addresses and identities.

    Numbers may be typed in any notation; without a country code they belong to the region. An unescaped `+` in a query
    has become a space, so spaces become `+` again, since addresses have none. Empty for an empty search.
    """
    plain = plain_signs(text[:_LONGEST_SEARCHED])
    written = normalize("NFC", text[:_LONGEST_SEARCHED].strip(INVISIBLE)).lower()
    if any(map(str.isdecimal, plain)) and _SEARCHED_PHONE.fullmatch(plain):
        # also the beginning of a mailbox: 12.34@example.com
        numbers = _numbers_written(plain, region)
        return (*numbers, *(() if numbers and " " in written else (written,)))
    written = written.replace(" ", "+")
    return tuple(dict.fromkeys((written, identity(written)))) if written else ()


def _numbers_written(plain: str, region: str) -> tuple[str, ...]:
    """Return the forms that these digits may have in a phone number, as E.164 digits."""
    code = str(phonenumbers.country_code_for_region(region) or "")
    trunk = phonenumbers.ndd_prefix_for_region(region, True) or ""
    digits = re.sub("[^0-9]", "", plain.replace("(0)", ""))
    if not digits.lstrip("0"):
        return ()
    found = [digits]
    if "+" in plain or digits.startswith("00"):
        found = [digits.removeprefix("00")]
    elif trunk and digits.startswith(trunk):
        found.append(code + digits.removeprefix(trunk))
    else:
        found.append(code + digits)
    # a trunk prefix after the country code is not part of the number
    found += [code + one.removeprefix(code + trunk) for one in found if trunk and one.startswith(code + trunk)]
    return tuple(dict.fromkeys(way for one in found for way in (one, identity(one))))
