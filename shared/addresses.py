"""Addresses: who an address belongs to, apart from the spelling that a message is sent to.

One mailbox has many spellings: `Siti@Example.com`, `siti@example.com`, `siti@münchen.example` and
`siti@xn--mnchen-3ya.example`. So have some numbers, since WhatsApp keeps old forms that the networks gave up.
A message goes to the spelling that the client wrote; suppressions, duplicates, limits and searches compare identities.
"""

from __future__ import annotations

import re
from unicodedata import category, decimal, normalize

import idna

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
