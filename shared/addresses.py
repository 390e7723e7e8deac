"""Addresses: who an address belongs to, apart from the spelling that a message is sent to.

One mailbox has many spellings: `Siti@Example.com`, `siti@example.com`, `siti@münchen.example` and
`siti@xn--mnchen-3ya.example`. So have some numbers, since WhatsApp keeps old forms that the networks gave up.
A message goes to the spelling that the client wrote; suppressions, duplicates, limits and searches compare identities.
What people type into a search becomes the few ways in which an identity may hold it (`ways_written`).
"""

from __future__ import annotations

import re
from unicodedata import category, decimal, normalize

import idna
import phonenumbers

# Mexico gave up the 1 before mobile numbers in 2019; WhatsApp still names its older accounts with it.
_MEXICO = re.compile(r"521([0-9]{10})")
# Brazil put a 9 before all mobile numbers by 2016; WhatsApp names many accounts without it (Anatel, resolution 553).
_BRAZIL = re.compile(r"55([1-9][0-9])([6-9][0-9]{7})")

# around an address: spaces, and marks that cannot be seen but come along when text is copied
INVISIBLE = (
    " \t\r\n\u00a0\u00ad\u061c\u200b\u200c\u200d\u200e\u200f"
    "\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_SIGNS = dict(zip("\uff0b\ufe62\uff08\uff09\uff0e\uff0f\uff1b\uff0c\u2212", "++()./;,-", strict=True))
_LONGEST_SEARCHED = 320
_SEARCHED_PHONE = re.compile(r"(?:tel:)?[0-9 ().\-/+]*")
_KINDS = {"Zs": " ", "Pd": "-", "Cf": ""}


def identity(address: str) -> str:
    """Return the identity of an address: equal for two spellings of one mailbox or number, else different.

    Takes email addresses and E.164 digits without `+`. A mailbox: all of it in lower case and NFC, the domain in
    ASCII (RFC 5891). Never fails: what is not an address is its own identity, in lower case.
    """
    local, at, domain = address.rpartition("@")
    if address.isascii():
        return address.lower() if at else _number(address)
    return normalize("NFC", normalize("NFC", local).lower()) + at + ascii_domain(domain)


def ascii_domain(domain: str) -> str:
    """Return a domain in lower case and ASCII; one that cannot be written in ASCII stays as it is, in lower case."""
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
    """Write digits, spaces, dashes and signs of all scripts in ASCII, and leave out marks that cannot be seen."""
    return text.strip() if text.isascii() else "".join(map(_plain_sign, text)).strip()


def _plain_sign(sign: str) -> str:
    kind = category(sign)
    if kind == "Nd":
        return str(decimal(sign))
    return _SIGNS.get(sign) or _KINDS.get(kind, sign)


def ways_written(text: str, region: str) -> tuple[str, ...]:
    """Return how a part of an address that people type may be written in addresses and identities.

    Numbers may be typed in any way, and those without a country code are the region's. A `+` that was not escaped in a
    query has become a space: no address holds one. Empty where nothing is asked for.
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
    """Return the ways in which a number that holds these digits may be written, as E.164 digits."""
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
    # a trunk prefix behind the country's code is not dialled
    found += [code + one.removeprefix(code + trunk) for one in found if trunk and one.startswith(code + trunk)]
    return tuple(dict.fromkeys(way for one in found for way in (one, identity(one))))
