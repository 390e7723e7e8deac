"""From a message to the bytes that a server gets: encoded for what it offers, and DKIM-signed where there is a key.

A signed message is pure ASCII: a relay that had to convert 8-bit text would break the signature (RFC 6376, 5.3).
Headers and body are canonicalised as `relaxed/relaxed` (RFC 6376, 3.4), which survives what relays do to spaces.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial

from services.email_sender.dkim_keys import DkimKey, KeyRing
from services.email_sender.message import Mail

# above this, encoding a message takes so long that it must not hold up the others
ENCODE_ASIDE_BYTES = 512 * 1024
# several messages are prepared in one go: above this, each is encoded aside in its turn
SIGN_AHEAD_BYTES = 64 * 1024
_MOST_THREADS = 4
# hashing lets other threads run; what is done between two pieces does not
_PIECE_BYTES = 256 * 1024
_LINE_CHARS = 76
# RFC 6376, 5.4.1, RFC 8058, 4, and Feedback-ID, which counts only where it is signed
_SIGNED = frozenset(
    b"from to cc reply-to subject date message-id mime-version content-type content-transfer-encoding "
    b"list-id list-unsubscribe list-unsubscribe-post feedback-id".split()
)
# signed once more than they are there, so that nobody can add another (RFC 6376, 8.15)
_OVERSIGNED = (b"from", b"to", b"subject", b"date", b"message-id")


class Encoder:
    """Encodes messages, and signs them with the keys of their From domain.

    An Ed25519 signature takes less time than handing it to a thread. RSA signatures are made in threads, ahead of
    their messages' turns.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._most_threads = min(os.cpu_count() or 1, _MOST_THREADS)
        self._threads = ThreadPoolExecutor(self._most_threads, "mail")

    async def encode(self, mail: Mail, *, eight_bit: bool) -> bytes:
        """Return a message in CRLF lines, dots not stuffed; `eight_bit` where the server has 8BITMIME."""
        content = self.encode_at_once(mail, eight_bit=eight_bit)
        if content is not None:
            return content
        if mail.ahead is not None:
            return await asyncio.shield(asyncio.wrap_future(mail.ahead))
        work = partial(_encoded, mail, self._keys.for_domain(mail.from_domain), eight_bit=eight_bit)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def encode_at_once(self, mail: Mail, *, eight_bit: bool) -> bytes | None:
        """Return a message as `encode` does, None where that takes so long that it must not hold up others."""
        if mail.ahead is not None:
            return mail.ahead.result() if mail.ahead.done() else None
        keys = self._keys.for_domain(mail.from_domain)
        if mail.body.size > ENCODE_ASIDE_BYTES or any(key.is_rsa for key in keys):
            return None
        return _encoded(mail, keys, eight_bit=eight_bit)

    def signs_ahead(self, domain: str) -> bool:
        """Return whether small messages from a domain are worth signing ahead of their turn."""
        return any(key.is_rsa for key in self._keys.for_domain(domain))

    def sign_ahead(self, mails: Sequence[Mail]) -> list[Mail]:
        """Begin to sign messages, the first ones first; returns them with what is under way. One hand-over for many."""
        begun = [replace(mail, ahead=Future()) for mail in mails]
        work = [(Draft(mail.encode(eight_bit=False), self._keys.for_domain(mail.from_domain)), mail) for mail in begun]
        for number in range(min(self._most_threads, len(work))):
            self._threads.submit(_sign_all, work[number :: self._most_threads])
        return begun

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _sign_all(work: Sequence[tuple[Draft, Mail]]) -> None:
    for draft, mail in work:
        if mail.ahead is None:
            continue
        try:
            mail.ahead.set_result(draft.signed())
        except Exception as error:
            mail.ahead.set_exception(error)  # raised where the message is sent


def _encoded(mail: Mail, keys: Sequence[DkimKey], *, eight_bit: bool) -> bytes:
    if not keys:
        return mail.encode(eight_bit=eight_bit)
    return signed(mail.encode(eight_bit=False), keys)


def signed(content: bytes, keys: Sequence[DkimKey]) -> bytes:
    """Return a message in CRLF lines with one DKIM-Signature for each key before it."""
    return Draft(content, keys).signed()


class Draft:
    """A message whose signatures are complete but for the signing itself: that is all that takes long."""

    def __init__(self, content: bytes, keys: Sequence[DkimKey]) -> None:
        self._content = content
        head_end = content.index(b"\r\n\r\n") + 2
        names, covered = _covered(content[:head_end])
        body_hash = binascii.b2a_base64(body_digest(content, head_end + 2), newline=False)
        rest = b" t=%d;\r\n h=%b;\r\n bh=%b;\r\n b=" % (time.time(), _listed(names), body_hash)
        # RFC 6376, 3.7: the header itself comes last, without its signature and without a line break at its end
        values = [key.tags + rest for key in keys]
        self._headers = [
            (key, value, hashlib.sha256(b"%bdkim-signature:%b" % (covered, value.replace(b"\r\n", b""))).digest())
            for key, value in zip(keys, values, strict=True)
        ]

    def signed(self) -> bytes:
        """Return the message with its signatures before it."""
        headers = [
            b"DKIM-Signature: %b%b\r\n" % (value, _folded(key.sign(digest))) for key, value, digest in self._headers
        ]
        return b"".join([*headers, self._content])


@lru_cache(maxsize=64)
def _listed(names: tuple[bytes, ...]) -> bytes:
    """Return names for `h=`, folded after colons."""
    lines: list[bytes] = []
    line = b""
    for name in names:
        if line and len(line) + len(name) > _LINE_CHARS:
            lines.append(line)
            line = b""
        line += b":" + name if line or lines else name
    return b"\r\n ".join([*lines, line])


def _folded(signature: bytes) -> bytes:
    text = binascii.b2a_base64(signature, newline=False)
    return b"\r\n ".join(text[start : start + _LINE_CHARS - 1] for start in range(0, len(text), _LINE_CHARS - 1))


def _covered(head: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Return the names of the headers to sign and their canonical form (RFC 6376, 3.4.2).

    Each name's last header comes first (5.4.2). A value is unfolded, each run of white space becomes one space, and
    there is none at its ends.
    """
    names: list[bytes] = []
    lines: list[bytes] = []
    unfolded = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ")
    for line in reversed(unfolded.split(b"\r\n")):
        name, _, value = line.partition(b":")
        if known := _signed_name(name):
            names.append(known)
            lines.append(b"%b:%b\r\n" % (known, b" ".join(value.split())))
    return (*names, *_OVERSIGNED), b"".join(lines)


@lru_cache(maxsize=256)
def _signed_name(name: bytes) -> bytes:
    """Return a header's name in lower case where it is one to sign, else nothing."""
    lowered = name.lower()
    return lowered if lowered in _SIGNED else b""


def body_digest(content: bytes, start: int) -> bytes:
    """Return the SHA-256 of the body from `start` on in its relaxed form (RFC 6376, 3.4.4).

    A line's white space becomes one space, none at its end; empty lines at the body's end are gone. The hash is fed
    piece by piece, so that a large message holds the interpreter's lock for short moments alone.
    """
    digest = hashlib.sha256()
    end = len(content.rstrip(b" \t\r\n"))
    if end <= start:
        return digest.digest()
    while start < end:
        cut = min(end, start + _PIECE_BYTES)
        if cut < end:
            cut = content.rfind(b"\r\n", start, cut) + 2
        piece = content[start:cut] if cut > start else content[start:end]
        digest.update(_relaxed_lines(piece))
        start += len(piece)
    digest.update(b"\r\n")
    return digest.digest()


def _relaxed_lines(lines: bytes) -> bytes:
    """Return whole lines with their white space relaxed; a run of any length takes a few passes, not a square."""
    if b"\t" in lines:
        lines = lines.replace(b"\t", b" ")
    while b"  " in lines:
        lines = lines.replace(b"  ", b" ")
    return lines.replace(b" \r\n", b"\r\n")
