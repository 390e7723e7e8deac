"""Bodies: reading what a client sends, within its size and its time.

A client that sends nothing for `idle_s`, or less than 1 KB a second over more than that, holds a connection for
nothing: it gets 408. What is too large gets 413, at once where Content-Length already says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, TransferEncodingError

from services.ingest.call import JSON, Call
from services.ingest.decoding import convert, problem_of, problems_of, read_object
from services.ingest.problems import ApiError, Problem, invalid

_SLOWEST_BYTES_PER_S = 1024
BODY_ERRORS = ("MALFORMED_JSON", "UNSUPPORTED_MEDIA_TYPE", "BODY_TOO_LARGE", "REQUEST_TIMEOUT", "MALFORMED_REQUEST")
ENDINGS = (ContentEncodingError, TransferEncodingError, web.RequestPayloadError, ConnectionError)

StructT = TypeVar("StructT", bound=msgspec.Struct)
ValueT = TypeVar("ValueT")


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
    """Yield the body as it arrives; raises 408, 413 or 400."""
    meter = Meter(call, limit)
    content = call.request.content
    while not content.at_eof():
        try:
            chunk = await meter.awaited(content.readany())
        except ENDINGS as error:
            raise ApiError("MALFORMED_REQUEST", f"the body cannot be read: {error}") from error
        meter.received(chunk)
        yield chunk


async def read_json(call: Call, limit: int | None = None) -> bytes:
    """Return a whole JSON body; raises 415 for another Content-Type."""
    if call.request.content_type != JSON:
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"this call reads {JSON}")
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
    return decode_struct(raw, kind) if raw.strip() else kind()


def decode_struct(raw: bytes, kind: type[StructT]) -> StructT:
    """Decode a JSON object to a struct; raises 400, or 422 with every problem."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(_every_problem(raw, kind) or [problem_of(error)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError("MALFORMED_JSON", f"the body is not JSON: {error}") from error


def _every_problem(raw: bytes, kind: type[StructT]) -> list[Problem]:
    try:
        value = read_object(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError("MALFORMED_JSON", f"the body is not JSON: {error}") from error
    if value is None:
        raise ApiError("MALFORMED_JSON", "the body is not a JSON object")
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
