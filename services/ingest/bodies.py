"""Bodies: reading what a client sends, within its size and its time.

A client that sends nothing for `idle_s`, or less than 1 KB a second over more than that, holds a connection for
nothing: it gets 408. What is too large gets 413, at once where Content-Length already says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, TransferEncodingError

from services.ingest.call import JSON, Call
from services.ingest.decoding import convert, problem_of, problems_of, read_object
from services.ingest.problems import ApiError, Problem, invalid

_SLOWEST_BYTES_PER_S = 1024
_ENDINGS = (ContentEncodingError, TransferEncodingError, web.RequestPayloadError)

StructT = TypeVar("StructT", bound=msgspec.Struct)


async def chunks(call: Call, limit: int) -> AsyncIterator[bytes]:
    """Yield the body as it arrives; raises 408, 413 or 400."""
    length = call.request.content_length
    if length is not None and length > limit:
        raise _too_large(limit)
    received, idle_s = 0, call.gateway.settings.limits.idle_s
    began = call.gateway.clock.monotonic()
    content = call.request.content
    while not content.at_eof():
        try:
            async with asyncio.timeout(idle_s):
                chunk = await content.readany()
        except TimeoutError:
            raise _too_slow() from None
        except _ENDINGS as error:
            raise ApiError("MALFORMED_REQUEST", f"the body cannot be read: {error}") from error
        received += len(chunk)
        if received > limit:
            raise _too_large(limit)
        if call.gateway.clock.monotonic() - began > idle_s + received / _SLOWEST_BYTES_PER_S:
            raise _too_slow()
        call.note_body(chunk)
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


async def read_struct(call: Call, kind: type[StructT]) -> StructT:
    """Return a JSON body as a struct; raises 400, or 422 with every problem."""
    return decode_struct(await read_json(call), kind)


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
