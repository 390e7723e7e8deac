"""Signs messages with DKIM: puts the signatures before a message in CRLF lines.

Headers and body are canonicalised as `relaxed/relaxed` (RFC 6376, 3.4), which tolerates changes of white space by
relays.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import time
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from services.email_sender.dkim_keys import DkimKey
from services.email_sender.mime import PlainLines

# other threads run while a piece is hashed, but not between pieces
_PIECE_BYTES = 256 * 1024
_LINE_CHARS = 76
_PIECES_OF_SIGNATURE = re.compile(rb".{1,75}")
# RFC 6376, 5.4.1, RFC 8058, 4, and Feedback-ID, which counts only if it is signed
_SIGNED = frozenset(
    b"from to cc reply-to subject date message-id mime-version content-type content-transfer-encoding "
    b"list-id list-unsubscribe list-unsubscribe-post feedback-id".split()
)
# signed once more than they occur, so that adding another breaks the signature (RFC 6376, 8.15)
_OVERSIGNED = (b"from", b"to", b"subject", b"date", b"message-id")


class Covered(msgspec.Struct, frozen=True):
    """Headers as a signature covers them (RFC 6376, 3.4.2 and 5.4.2): their names and canonical lines, last first."""

    names: tuple[bytes, ...] = ()
    lines: bytes = b""


NOTHING = Covered()


def signed(content: bytes, keys: Sequence[DkimKey]) -> bytes:
    """Return a message in CRLF lines, preceded by one DKIM-Signature per key."""
    return Draft(b"", content, keys).signed()


class Draft:
    """A message with everything prepared except the signing itself, the only slow step.

    `own` is what is covered of the headers in `head`; the other headers, at the start of `rest`, are looked at here.
    `plain` is whether all lines are plain (`PlainLines`). `requests` is what is to be signed: for each signature its
    key and a SHA-256 digest.
    """

    __slots__ = ("_body_hash", "_head", "_headers", "_plain", "_rest", "requests")

    def __init__(
        self, head: bytes, rest: bytes, keys: Sequence[DkimKey], own: Covered = NOTHING, *, plain: bool = False
    ) -> None:
        start = rest.index(b"\r\n\r\n") + 4
        others = _covered_again(rest[: start - 2])
        names = others.names + own.names
        digest = plain_digest(rest, start) if plain else body_digest(rest, start)
        self._body_hash = body_hash = binascii.b2a_base64(digest, newline=False)
        self._head, self._rest, self._plain = head, rest, plain
        second = int(time.time())
        self._headers: list[bytes] = []
        self.requests: list[tuple[DkimKey, bytes]] = []
        for key in keys:
            written, hashed = _tags(key.tags, names, second)
            # RFC 6376, 3.7: the signature's own header is hashed last, with an empty `b=` and no line break at its end
            digest = hashlib.sha256(b"".join((others.lines, own.lines, hashed, body_hash, b"; b="))).digest()
            self._headers.append(written)
            self.requests.append((key, digest))

    def signed(self) -> bytes:
        """Sign, and return the message, preceded by its signatures."""
        return self.completed([key.sign(digest) for key, digest in self.requests])

    def completed(self, signatures: Sequence[bytes]) -> bytes:
        """Return the message, preceded by these signatures, in the order of `requests`."""
        if len(signatures) != len(self._headers):
            raise ValueError(f"{len(signatures)} signatures for {len(self._headers)} headers")
        pieces: list[bytes] = []
        for place, signature in enumerate(signatures):
            pieces += self._headers[place], self._body_hash, b";\r\n b=", _folded(signature), b"\r\n"
        pieces += self._head, self._rest
        content = b"".join(pieces)
        return PlainLines(content) if self._plain else content


@lru_cache(maxsize=64)
def _tags(tags: bytes, names: tuple[bytes, ...], second: int) -> tuple[bytes, bytes]:
    """Return the header up to its `bh=`, as it is written and as it is hashed; most messages of a second share it."""
    listed = _listed((*names, *_OVERSIGNED))
    value = b"%b t=%d;\r\n h=%b;\r\n bh=" % (tags, second, listed)
    return b"DKIM-Signature: " + value, b"dkim-signature:" + value.replace(b"\r\n", b"")


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
    return b"\r\n ".join(_PIECES_OF_SIGNATURE.findall(binascii.b2a_base64(signature, newline=False)))


def covered(head: bytes) -> Covered:
    """Return what is covered of headers in CRLF lines.

    Headers are signed from the last to the first. A value is unfolded and stripped, and each run of white space becomes
    one space.
    """
    names: list[bytes] = []
    lines: list[bytes] = []
    unfolded = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ")
    for line in reversed(unfolded.split(b"\r\n")):
        name, _, value = line.partition(b":")
        if known := _signed_name(name):
            names.append(known)
            lines.append(b"%b:%b\r\n" % (known, relaxed(value)))
    return Covered(tuple(names), b"".join(lines))


# the headers of the body are the same in all messages of a blast
_covered_again = lru_cache(maxsize=64)(covered)


def relaxed(value: bytes) -> bytes:
    """Return a header's value, folded or not, in canonical form."""
    return b" ".join(value.split())


@lru_cache(maxsize=256)
def _signed_name(name: bytes) -> bytes:
    """Return a header's name in lower case if it is to be signed, else b""."""
    lowered = name.lower()
    return lowered if lowered in _SIGNED else b""


def body_digest(content: bytes, start: int) -> bytes:
    """Return the SHA-256 of the relaxed form of the body, which begins at `start` (RFC 6376, 3.4.4).

    Each run of white space in a line becomes one space, and is removed at the line's end; empty lines at the body's end
    are removed. The hash is fed piece by piece, so that a large message holds the interpreter's lock only briefly.
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


def plain_digest(content: bytes, start: int) -> bytes:
    """Return what `body_digest` returns for plain lines: only empty ones at the end are to be removed."""
    end = len(content)
    while end > start and content.endswith(b"\r\n", start, end):
        end -= 2
    digest = hashlib.sha256(memoryview(content)[start:end])
    if end > start:
        digest.update(b"\r\n")
    return digest.digest()


def _relaxed_lines(lines: bytes) -> bytes:
    """Return whole lines with their white space relaxed; a long run takes few passes, so the time is not quadratic."""
    if b"\t" in lines:
        lines = lines.replace(b"\t", b" ")
    while b"  " in lines:
        lines = lines.replace(b"  ", b" ")
    return lines.replace(b" \r\n", b"\r\n")
