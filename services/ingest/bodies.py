"""Bodies: reading what a client sends, within its size and its time.

A client that sends nothing for `idle_s`, or less than 1 KB a second over more than that, holds a connection for
nothing: it gets 408. What is too large gets 413, at once where Content-Length already says so.
"""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Awaitable
from email.message import Message
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import TransferEncodingError

from services.ingest.call import JSON, Call
from services.ingest.decoding import (
    UNREADABLE,
    convert,
    decode_json,
    json_text,
    problem_of,
    problems_of,
    read_object,
    words_of,
)
from services.ingest.inflating import Inflater, coding_of
from services.ingest.problems import ApiError, Problem, invalid

_SLOWEST_BYTES_PER_S = 1024
# ASCII is a part of it
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
READING_ERRORS = ("BODY_TOO_LARGE", "REQUEST_TIMEOUT", "MALFORMED_REQUEST", "UNSUPPORTED_ENCODING")
BODY_ERRORS = ("MALFORMED_JSON", "UNSUPPORTED_MEDIA_TYPE", *READING_ERRORS)
ENDINGS = (TransferEncodingError, web.RequestPayloadError, ConnectionError)

_LONGEST_NO_BODY = 64 * 1024

StructT = TypeVar("StructT", bound=msgspec.Struct)
ValueT = TypeVar("ValueT")


class _NoBody(msgspec.Struct, forbid_unknown_fields=True):
    """What a call that takes no body may be sent."""


class Meter:
    """Holds a body being read to its size and its time; raises 408 and 413."""

    def __init__(self, call: Call, limit: int) -> None:
        self._call = call
        self._limit = limit
        self._received = 0
        self._idle_s = call.gateway.settings.limits.idle_s
        self._began = call.gateway.clock.monotonic()
        length = call.request.content_length
        if length is not None and length > limit:
            raise _too_large(limit)

    async def awaited(self, reading: Awaitable[ValueT]) -> ValueT:
        """Wait for a piece of the body, but not for ever."""
        try:
            async with asyncio.timeout(self._idle_s):
                return await reading
        except TimeoutError:
            raise _too_slow() from None

    def received(self, chunk: bytes) -> None:
        """Note a piece that has arrived."""
        self._received += len(chunk)
        if self._received > self._limit:
            raise _too_large(self._limit)
        spent_s = self._call.gateway.clock.monotonic() - self._began
        if spent_s > self._idle_s + self._received / _SLOWEST_BYTES_PER_S:
            raise _too_slow()
        self._call.note_body(chunk)


async def chunks(call: Call, limit: int) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, inflated where it is compressed; raises 408, 413, 415 or 400."""
    coding = coding_of(call.request.headers.get("Content-Encoding", ""))
    meter = Meter(call, limit)
    arriving = _arriving(call, meter)
    async for chunk in _inflated(arriving, Inflater(coding)) if coding else arriving:
        meter.received(chunk)
        yield chunk


async def _arriving(call: Call, meter: Meter) -> AsyncIterator[bytes]:
    content = call.request.content
    while not content.at_eof():
        try:
            chunk = await meter.awaited(content.readany())
        except ENDINGS as error:
            what = "the body broke off, or its chunks are broken"
            raise ApiError("MALFORMED_REQUEST", what, headers={"Connection": "close"}) from error
        yield chunk


async def _inflated(arriving: AsyncIterator[bytes], inflater: Inflater) -> AsyncIterator[bytes]:
    async for chunk in arriving:
        for piece in inflater.pieces(chunk):
            yield piece
            # a chunk may inflate to a thousand times its size
            await asyncio.sleep(0)
    inflater.finish()


def check_charset(request: web.Request) -> None:
    """Raise 415 where the Content-Type names a character set other than UTF-8."""
    _check_charset(request.charset)


def check_charset_of(content_type: str, what: str) -> None:
    """Raise 415 where this Content-Type names a character set other than UTF-8; `what` has it."""
    named = Message()
    named["Content-Type"] = content_type or "text/plain"
    _check_charset(named.get_content_charset(), what)


def _check_charset(charset: str | None, what: str = "the body") -> None:
    if charset and charset.lower().replace("_", "-") not in _UTF8:
        said = f"{what} is sent as UTF-8; its Content-Type says {charset[:40]!r}"
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", said)


async def read_json(call: Call, limit: int | None = None) -> bytes:
    """Return a whole JSON body; raises 415 for another Content-Type."""
    if call.request.content_type != JSON:
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"this call reads {JSON}")
    check_charset(call.request)
    return await read_whole(call, limit or call.gateway.settings.limits.json_bytes)


async def read_whole(call: Call, limit: int) -> bytes:
    """Return a whole body of any type."""
    parts = [chunk async for chunk in chunks(call, limit)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_struct(call: Call, kind: type[StructT], limit: int | None = None) -> StructT:
    """Return a JSON body as a struct; raises 400, or 422 with every problem."""
    return decode_struct(await read_json(call, limit), kind)


async def read_optional(call: Call, kind: type[StructT]) -> StructT:
    """Return a JSON body as a struct; an empty body means all defaults."""
    if not call.request.can_read_body:
        return kind()
    raw = await read_json(call)
    return decode_struct(raw, kind) if raw.removeprefix(BOM_UTF8).strip() else kind()


async def refuse_body(call: Call) -> None:
    """Read the body of a call that takes none: empty, or an object without fields. Raises 400 and 422 for another.

    What is ignored would be taken for done: a `reason`, a filter, a `dryRun`.
    """
    if not call.request.can_read_body:
        return
    raw = (await read_whole(call, _LONGEST_NO_BODY)).removeprefix(BOM_UTF8).strip()
    if raw:
        decode_object(raw, _NoBody, "MALFORMED_JSON", "this call takes no body, and what was sent")


def decode_struct(raw: bytes, kind: type[StructT]) -> StructT:
    """Decode a JSON object to a struct; raises 400, or 422 with every problem."""
    return decode_object(raw, kind, "MALFORMED_JSON", "the body")


def decode_object(raw: bytes, kind: type[StructT], malformed: str, what: str) -> StructT:
    """Decode a JSON object to a struct; raises `malformed` about `what` (400), or 422 with every problem."""
    try:
        text = json_text(raw)
        return decode_json(text, kind)
    except msgspec.ValidationError as error:
        raise invalid(_every_problem(text, kind, malformed, what) or [problem_of(error)]) from error
    except UNREADABLE as error:
        raise ApiError(malformed, f"{what} is not JSON: {words_of(error)}") from error


def _every_problem(raw: bytes, kind: type[StructT], malformed: str, what: str) -> list[Problem]:
    """Return every problem of an object; what follows the first of them may not even be JSON."""
    try:
        value = read_object(raw)
    except UNREADABLE as error:
        raise ApiError(malformed, f"{what} is not JSON: {words_of(error)}") from error
    if value is None:
        raise ApiError(malformed, f"{what} is not a JSON object")
    return problems_of(value, kind)


def struct_of(value: dict[str, object], kind: type[StructT]) -> StructT:
    """Convert an untyped object to a struct; raises 422 with every problem."""
    converted = convert(value, kind)
    if isinstance(converted, list):
        raise invalid(converted)
    return converted


def _too_large(limit: int) -> ApiError:
    size = f"{limit / 1_048_576:g} MB" if limit >= 1_048_576 else f"{limit} bytes"
    return ApiError("BODY_TOO_LARGE", f"the body is larger than {size}", headers={"Connection": "close"})


def _too_slow() -> ApiError:
    return ApiError("REQUEST_TIMEOUT", headers={"Connection": "close"})
