"""The token of an unsubscribe link: who wants no more mail, signed so that nobody can unsubscribe another.

The link is `{public_url}/u/{token}`. A token needs no table: it holds the channel and the address, and the first
128 bits of their HMAC-SHA256 under KURIR_SECRET. It does not expire, since links in old mail must keep working.
"""

from __future__ import annotations

import base64
import binascii
import hmac

_MAC_BYTES = 16
# what is signed begins with this, so that no other use of the secret can yield a valid token
_PURPOSE = b"kurir unsubscribe\0"


def make_token(secret: str, channel: str, address: str) -> str:
    """Return the token for an address of a channel: letters, digits, `-` and `_` only (base64url, no padding)."""
    payload = f"{channel}\0{address}".encode()
    return base64.urlsafe_b64encode(_mac(secret, payload) + payload).rstrip(b"=").decode("ascii")


def read_token(secret: str, token: str) -> tuple[str, str] | None:
    """Return the channel and address of a token; None if it was not made with this secret, or was changed."""
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
        raise ValueError("an empty secret signs nothing")
    return hmac.digest(secret.encode(), _PURPOSE + payload, "sha256")[:_MAC_BYTES]
