"""Reading of HTTP responses: the beginning of a body, and the wait that a server asks for."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp

MAX_ANSWER_BYTES = 64 * 1024
_CHUNK_BYTES = 16 * 1024
_LONGEST_WAIT_S = 24 * 3600.0


async def read_beginning(content: aiohttp.StreamReader) -> bytes:
    """Read a response's body, but only the first 64 KB of an absurdly long one; then the connection is closed."""
    parts = bytearray()
    async for chunk in content.iter_chunked(_CHUNK_BYTES):
        parts += chunk
        if len(parts) >= MAX_ANSWER_BYTES:
            break
    return bytes(parts[:MAX_ANSWER_BYTES])


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
