"""From a message to the bytes that a server gets: encoded for what it offers, and DKIM-signed where that is configured.

A signed message is pure ASCII: a relay that had to convert 8-bit text would break the signature (RFC 6376, 5.3).
dkimpy signs in Python alone, 9 ms of CPU with a 2,048-bit RSA key, so signing has a thread of its own.
"""

from __future__ import annotations

import asyncio
import binascii
from concurrent.futures import ThreadPoolExecutor

import dkim
from dkim.crypto import UnparsableKeyError, parse_pem_private_key

from services.email_sender.message import Mail
from services.email_sender.settings import DkimSettings
from shared.errors import SettingsError

# above this, encoding a message takes so long that it must not hold up the others
ENCODE_ASIDE_BYTES = 512 * 1024
_ED25519_BYTES = 32
# RFC 6376, 5.4.1, and RFC 8058, 4, which wants the unsubscribe headers signed
_SIGNED = (b"from", b"to", b"reply-to", b"subject", b"date", b"message-id", b"mime-version", b"content-type",
           b"list-unsubscribe", b"list-unsubscribe-post")  # fmt: skip


class Encoder:
    """Encodes messages, and signs them with the key of `settings`; raises SettingsError for a key that is none."""

    def __init__(self, settings: DkimSettings | None) -> None:
        self._signer = _Signer(settings) if settings is not None else None
        self._threads = ThreadPoolExecutor(1, "dkim") if settings is not None else None

    async def encode(self, mail: Mail, *, eight_bit: bool) -> bytes:
        """Return a message in CRLF lines, dots not stuffed; `eight_bit` where the server has 8BITMIME."""
        if self._signer is not None:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._signer.signed, mail)
        if mail.body.size > ENCODE_ASIDE_BYTES:
            return await asyncio.to_thread(mail.encode, eight_bit=eight_bit)
        return mail.encode(eight_bit=eight_bit)

    def encode_at_once(self, mail: Mail, *, eight_bit: bool) -> bytes | None:
        """Return a message as `encode` does, None where that takes so long that it must not hold up others."""
        if self._signer is not None or mail.body.size > ENCODE_ASIDE_BYTES:
            return None
        return mail.encode(eight_bit=eight_bit)

    def close(self) -> None:
        """Let the thread go."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


class _Signer:
    def __init__(self, settings: DkimSettings) -> None:
        self._domain = settings.domain.encode("idna")
        self._selector = settings.selector.encode("ascii")
        self._key = settings.private_key.encode("ascii")
        self._algorithm = _algorithm(self._key)

    def signed(self, mail: Mail) -> bytes:
        """Return the message with its signature before it."""
        content = mail.encode(eight_bit=False)
        signature: bytes = dkim.sign(
            content,
            self._selector,
            self._domain,
            self._key,
            canonicalize=(b"relaxed", b"relaxed"),
            signature_algorithm=self._algorithm,
            include_headers=_SIGNED,
        )
        return signature + content


def _algorithm(key: bytes) -> bytes:
    if key.startswith(b"-----BEGIN"):
        try:
            parse_pem_private_key(key)
        except (UnparsableKeyError, ValueError) as error:
            raise SettingsError([f"KURIR_DKIM_PRIVATE_KEY: not an RSA private key in PEM: {error}"]) from error
        return b"rsa-sha256"
    try:
        raw = binascii.a2b_base64(key)
    except binascii.Error:
        raw = b""
    if len(raw) != _ED25519_BYTES:
        raise SettingsError(["KURIR_DKIM_PRIVATE_KEY: neither an RSA key in PEM nor an Ed25519 key in base64"])
    return b"ed25519-sha256"
