"""The token of an unsubscribe link: the address, signed so that one recipient cannot unsubscribe another.

The link is `{public_url}/u/{token}`. Tokens need no table: each has the channel, the address, and the first 128 bits of
their HMAC-SHA256 with KURIR_SECRET. Tokens do not expire, since links in old mail must keep working.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from functools import lru_cache

_MAC_BYTES = 16
# prefix of the signed text, so that no other use of the secret can produce a valid token
_PURPOSE = b"kurir unsubscribe\0"


def make_token(secret: str, channel: str, address: str) -> str:
    """Return the token for an address of a channel: letters, digits, `-` and `_` only (base64url, no padding)."""
    payload = f"{channel}\0{address}".encode()
    return base64.urlsafe_b64encode(_mac(secret, payload) + payload).rstrip(b"=").decode("ascii")


def read_token(secret: str, token: str) -> tuple[str, str] | None:
    """Return the channel and address of a token; None if it was made with another secret or changed."""
    try:
        packed = token.encode("ascii")
        raw = base64.b64decode(packed + b"=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, payload)):
        return None
    channel, _, address = payload.decode("utf-8").partition("\0")
    return channel, address


def _mac(secret: str, payload: bytes) -> bytes:
    if not secret:
        raise ValueError("cannot sign with an empty secret")
    signing = _keyed(secret).copy()
    signing.update(payload)
    return signing.digest()[:_MAC_BYTES]


@lru_cache(8)
def _keyed(secret: str) -> hmac.HMAC:
    """Return the beginning of every signature; preparing the key takes longer than signing."""
    return hmac.new(secret.encode(), _PURPOSE, "sha256")
