"""NDJSON: chunks of bytes become lines, whatever the chunks' borders, in memory for one line and one chunk."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import AsyncIterator

from services.ingest.problems import ApiError


async def ndjson_lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[list[bytes]]:
    """Yield the lines of each chunk without their ends; raises ApiError where one is longer than `limit` bytes.

    Blank lines are left out, and a byte order mark before the first.
    """
    rest: list[bytes] = []
    held = 0
    first = True
    async for chunk in chunks:
        end = chunk.rfind(b"\n")
        if end < 0:
            rest.append(chunk)
            held += len(chunk)
            _check_length(held, limit)
            continue
        whole = b"".join([*rest, chunk[:end]])
        if first:
            whole, first = whole.removeprefix(BOM_UTF8), False
        rest, held = [chunk[end + 1 :]], len(chunk) - end - 1
        if lines := _lines(whole, limit):
            yield lines
    last = b"".join(rest)
    if lines := _lines(last.removeprefix(BOM_UTF8) if first else last, limit):
        yield lines


def _lines(whole: bytes, limit: int) -> list[bytes]:
    lines = [line for line in whole.split(b"\n") if line and not line.isspace()]
    _check_length(max(map(len, lines), default=0), limit)
    return lines


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        raise ApiError("BODY_TOO_LARGE", f"a line is longer than {limit} bytes", headers={"Connection": "close"})
