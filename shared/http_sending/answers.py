"""Answers of HTTP servers: what is kept of one, the beginning of a body, and the wait that a server asks for.

Nearly all answers to messages are alike: they come in one piece, with a head of well-formed lines and a length. These
are read by one regular expression, in a tenth of the time that a parser takes. It gives up on all else, which is left
to aiohttp's parser.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError

MAX_ANSWER_BYTES = 64 * 1024
_CHUNK_BYTES = 16 * 1024
_LONGEST_WAIT_S = 24 * 3600.0
# RFC 9112, 2 to 5, without what ends a body otherwise, changes it, asks for something or ends the connection
_OTHER = rb"""(?:(?!content-length|content-encoding|transfer-encoding|trailer|connection|upgrade|retry-after|location)
    [!#$%&'*+.^_`|~0-9a-z-]++:[\t\x20-\x7e\x80-\xff]*+ | connection:[ ]keep-alive)\r\n"""
_USUAL = re.compile(
    rb"""HTTP/1\.1[ ](20[01])[ ][\t\x20-\x7e\x80-\xff]*+\r\n
    (?i:(?:%b)*+ content-length:[ ]([0-9]{1,4})\r\n (?:%b)*+ \r\n)"""
    % (_OTHER, _OTHER),
    re.VERBOSE,
)


class Posted(msgspec.Struct, frozen=True):
    """An answer; its body may be cut off after 64 KB. The headers are "" where it has none.

    The status counts whatever becomes of the body: `broken` is why that is not complete, "" if it is.
    """

    status: int
    raw: bytes
    retry_after: str = ""
    location: str = ""
    broken: str = ""


def read_usual(data: bytes) -> Posted | None:
    """Return the answer that these bytes are; None unless they are exactly one, whole and of the usual form."""
    found = _USUAL.match(data)
    if found is None or len(data) - found.end() != int(found[2]):
        return None
    return Posted(int(found[1]), data[found.end() :])


async def read_beginning(content: aiohttp.StreamReader) -> bytes:
    """Read a response's body, but only the first 64 KB of an absurdly long one; then the connection is closed."""
    parts = bytearray()
    await _read(content, parts)
    return bytes(parts[:MAX_ANSWER_BYTES])


async def read_arrived(content: aiohttp.StreamReader) -> tuple[bytes, str]:
    """Read the beginning of a body as far as it arrives, and return it with what broke it off, "" if nothing did."""
    parts = bytearray()
    try:
        await _read(content, parts)
    except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
        # an error may come together with the data before it, which aiohttp then keeps
        parts += content._read_nowait(-1)  # noqa: SLF001 -- aiohttp has no public way
        return bytes(parts[:MAX_ANSWER_BYTES]), f"{type(error).__name__}: {error}"
    return bytes(parts[:MAX_ANSWER_BYTES]), ""


async def _read(content: aiohttp.StreamReader, parts: bytearray) -> None:
    async for chunk in content.iter_chunked(_CHUNK_BYTES):
        parts += chunk
        if len(parts) >= MAX_ANSWER_BYTES:
            break


def asked_wait_s(retry_after: str, now_s: float) -> float | None:
    """Return the wait that Retry-After asks for (seconds or an HTTP date; RFC 9110, 10.2.3), at most a day, else None.

    A wait of zero or a past date counts as None: without backoff, a server that always refuses would be tried forever.
    """
    text = retry_after.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), _LONGEST_WAIT_S) or None
    try:
        moment = parsedate_to_datetime(text)
        at_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None  # not a date, or out of the clock's range
    return min(max(at_s - now_s, 0.0), _LONGEST_WAIT_S) or None
