"""Receipts: what a provider says about a message after it accepted it, and how a receipt names its job.

A receipt finds its job by the first of these that it has: the job id (from `biz_opaque_callback_data`, a metadata
header or the token of a return path), our own Message-ID, which contains the job id and the run, and the provider's id,
which the logger looks up. An opt-out that names no message is found by its address.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from shared.jobs import parse_job_id

ReceiptKind = Literal["delivered", "read", "bounced", "undelivered", "complained", "opted_out", "opted_in"]
Severity = Literal["", "hard", "soft"]

LONGEST_RECEIPT_WORDS = 1000
JOB_HEADER = "x-kurir-job"  # of our mail; some providers and bounces return it
RETURN_PREFIX = "b-"
"""The local part of a return path is this prefix and the job's token."""

_MAC_BYTES = 5
# a local part has at most 64 octets (RFC 5321, section 4.5.3.1.1): 62 characters of base32 are 38 bytes
_LONGEST_JOB_ID = 38 - _MAC_BYTES
# prefix of the signed text, so that no other use of the secret can produce a valid token
_PURPOSE = b"kurir return path\0"
_MESSAGE_ID = re.compile(r"([^.@\s<>]+)\.([0-9]{1,9})\.([a-z0-9_]+)\.([0-9]{1,9})@[^@\s<>]+")
_KINDS: Mapping[str, tuple[str, ...]] = {
    "email": ("delivered", "bounced", "complained"),
    "whatsapp": ("undelivered", "delivered", "read"),
}
_RANKS = {(channel, kind): rank for channel, kinds in _KINDS.items() for rank, kind in enumerate(kinds, start=1)}


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a provider or a bounce mail says about one message, or about one address for opt-outs and opt-ins.

    - `source`: the provider, or `mail` for a bounce mail
    - `at`: Unix seconds, as the provider says; when it was received if it says none, or an absurd time. Then it is not
      `timed`: the same receipt, sent again, would have another time
    - `job_id`, `message_id` (our own, without angle brackets), `provider_id`: the message, in this order
    - `address`: the address that the receipt names. It is evidence and never a target: a suppression takes the address
      of our own row
    - `severity`: of a bounce, hard or soft
    - `code`, `words`: the provider's, such as 5.1.1 or 131026; valid Unicode, at most LONGEST_RECEIPT_WORDS characters
    - `trusted`: may suppress. It came by a hook, or names its job by a valid token of a return path. A bounce mail that
      only a Message-ID identifies is not trusted, because that can be guessed
    """

    kind: ReceiptKind
    source: str
    at: float
    job_id: str = ""
    message_id: str = ""
    provider_id: str = ""
    address: str = ""
    severity: Severity = ""
    code: str = ""
    words: str = ""
    trusted: bool = False
    timed: bool = True


def delivery_rank(channel: str, kind: str) -> int:
    """Return the rank, from 1, of a kind in a message's `delivery` on a channel, 0 if it never becomes that.

    A receipt changes `delivery` only if its rank is higher. On WhatsApp a delivery may follow a failure and then holds;
    on email a bounce may follow a delivery.
    """
    return _RANKS.get((channel, kind), 0)


def make_return_token(job_id: str, secret: str) -> str:
    """Return the token of a job's return path: the job id and 40 bits of its HMAC, in lower-case base32.

    Base32 has one case, because some mail servers change the case of a local part. Raises ValueError for a job id that
    is too long for a local part of 64 octets, and for an empty secret.
    """
    packed = job_id.encode()
    if len(packed) > _LONGEST_JOB_ID:
        raise ValueError(f"a job id of {len(packed)} bytes does not fit into a return path")
    return base64.b32encode(_mac(packed, secret) + packed).decode("ascii").rstrip("=").lower()


def read_return_token(token: str, secret: str) -> str:
    """Return the job id of a token in any case, "" if it was made with another secret or changed."""
    upper = token.upper()
    try:
        raw = base64.b32decode(upper + "=" * (-len(upper) % 8))
    except (binascii.Error, ValueError):
        return ""
    mac, packed = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(packed, secret)):
        return ""
    return packed.decode()


def _mac(packed: bytes, secret: str) -> bytes:
    if not secret:
        raise ValueError("cannot sign with an empty secret")
    signing = _keyed(secret).copy()
    signing.update(packed)
    return signing.digest()[:_MAC_BYTES]


@lru_cache(8)
def _keyed(secret: str) -> hmac.HMAC:
    """Return the beginning of every signature; preparing the key takes longer than signing."""
    return hmac.new(secret.encode(), _PURPOSE, "sha256")


def job_of_message_id(message_id: str) -> tuple[str, int] | None:
    """Return the job id and the run that one of our own Message-IDs contains, None for any other.

    The email sender writes `<blast>.<index>.<channel>.<run>@<domain>`; angle brackets and spaces around it are ignored.
    """
    found = _MESSAGE_ID.fullmatch(message_id.strip().removeprefix("<").removesuffix(">").strip())
    if found is None:
        return None
    job_id = f"{found[1]}:{int(found[2])}:{found[3]}"
    return (job_id, int(found[4])) if parse_job_id(job_id) and int(found[4]) else None
