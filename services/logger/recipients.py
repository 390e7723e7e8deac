"""Recipients: by what the log knows an address, and how it may have written the one that people type into a search.

The log holds addresses as they were sent to, and their identities where those differ. A search is for the beginning of
either, so what people type becomes a few beginnings, each looked up in an index.
"""

from __future__ import annotations

import re
from unicodedata import normalize

import phonenumbers

from shared.addresses import INVISIBLE, identity, plain_signs

_LONGEST = 320
_PHONE = re.compile(r"(?:tel:)?[0-9 ().\-/+]*")


def other_identity(address: str) -> str | None:
    """Return the identity of an address, None where that is the address itself."""
    own = identity(address)
    return own if own != address else None


def beginnings(text: str, region: str) -> tuple[str, ...]:
    """Return how addresses that begin with a text may be written in the log; empty where nothing is asked for.

    Numbers may be written in any way, those without a country code are the region's. A `+` that was not escaped in a
    query has become a space: no address holds one.
    """
    plain = plain_signs(text[:_LONGEST])
    if any(map(str.isdecimal, plain)) and _PHONE.fullmatch(plain):
        return _numbers(plain, region)
    written = normalize("NFC", text[:_LONGEST].strip(INVISIBLE)).replace(" ", "+").lower()
    return tuple(dict.fromkeys((written, identity(written)))) if written else ()


def _numbers(plain: str, region: str) -> tuple[str, ...]:
    """Return the ways in which numbers that begin so may stand in the log, as E.164 digits."""
    code = str(phonenumbers.country_code_for_region(region) or "")
    trunk = phonenumbers.ndd_prefix_for_region(region, True) or ""
    digits = re.sub("[^0-9]", "", plain.replace("(0)", ""))
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
