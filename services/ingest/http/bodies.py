"""Bodies: reading what a client sends, within limits of size and time.

A client that sends nothing for `idle_s`, or less than 1 KB a second beyond that time, ties up a connection: it gets
408. A body that is too large gets 413, before it is read where Content-Length already says so.

Compressed bodies are inflated a piece at a time, so that a small one cannot fill memory. aiohttp's own decompression
is switched off: it answers unknown codings in its own form or passes them through unread, and it accepts a truncated
gzip body as complete.
"""

from __future__ import annotations

import asyncio
import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Awaitable, Iterator
from email.message import Message
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import TransferEncodingError

from services.ingest.http.decoding import decode_object, decode_struct
from services.ingest.http.errors import ApiError
from services.ingest.http.operation import JSON, Call
from shared.web import content_type_of

_SLOWEST_BYTES_PER_S = 1024
# ASCII is a subset of UTF-8
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
READING_ERRORS = ("BODY_TOO_LARGE", "REQUEST_TIMEOUT", "MALFORMED_REQUEST", "UNSUPPORTED_ENCODING")
BODY_ERRORS = ("MALFORMED_JSON", "UNSUPPORTED_MEDIA_TYPE", *READING_ERRORS)
ENDINGS = (TransferEncodingError, web.RequestPayloadError, ConnectionError)

_LONGEST_NO_BODY = 64 * 1024

StructT = TypeVar("StructT", bound=msgspec.Struct)
ValueT = TypeVar("ValueT")
PIECE_BYTES = 65536
# Ordinary text compresses 10:1, the most repetitive 100:1; deflate can reach 1000:1.
_MOST_TIMES = 200
_ALWAYS_ALLOWED = 1_048_576
# RFC 9110, 8.4.1: "x-gzip" is an older name of gzip
_CODINGS = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_GZIP = 31
_ZLIB = 15
_RAW = -15


class _NoBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON that a call without a body accepts: an object without fields."""


class Meter:
    """Enforces the limits of size and time while a body is read; raises 408 and 413."""

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
        """Wait for a piece of the body, at most `idle_s`."""
        try:
            async with asyncio.timeout(self._idle_s):
                return await reading
        except TimeoutError:
            raise _too_slow() from None

    def received(self, chunk: bytes) -> None:
        """Count a piece that has arrived."""
        self._received += len(chunk)
        if self._received > self._limit:
            raise _too_large(self._limit)
        spent_s = self._call.gateway.clock.monotonic() - self._began
        if spent_s > self._idle_s + self._received / _SLOWEST_BYTES_PER_S:
            raise _too_slow()
        self._call.note_body(chunk)


async def chunks(call: Call, limit: int) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, inflated where it is compressed; raises 408, 413, 415 or 400."""
    coding = _coding(call)
    meter = Meter(call, limit)
    arriving = _arriving(call, meter)
    async for chunk in _inflated(arriving, Inflater(coding)) if coding else arriving:
        meter.received(chunk)
        yield chunk


def _coding(call: Call) -> str:
    return coding_of(call.request.headers.get("Content-Encoding", ""))


async def _arriving(call: Call, meter: Meter) -> AsyncIterator[bytes]:
    content = call.request.content
    while not content.at_eof():
        try:
            # what has arrived, such as all of a small body, needs no time-out
            chunk = content.read_nowait() or await meter.awaited(content.readany())
        except ENDINGS as error:
            what = "the body is incomplete, or its chunks are malformed"
            raise ApiError("MALFORMED_REQUEST", what, headers={"Connection": "close"}) from error
        yield chunk


async def _inflated(arriving: AsyncIterator[bytes], inflater: Inflater) -> AsyncIterator[bytes]:
    async for chunk in arriving:
        for piece in inflater.pieces(chunk):
            yield piece
            # a chunk may inflate to a thousand times its size
            await asyncio.sleep(0)
    inflater.finish()


def check_charset(charset: str | None, what: str = "the body") -> None:
    """Raise 415 for the charset of a Content-Type, that of `what`, if it is another than UTF-8."""
    if charset and charset.lower().replace("_", "-") not in _UTF8:
        said = f"{what} must be UTF-8, but its Content-Type says {charset[:40]!r}"
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", said)


def check_charset_of(content_type: str, what: str) -> None:
    """Raise 415 where this Content-Type, that of `what`, names a charset other than UTF-8, or cannot be read."""
    named = Message()
    named["Content-Type"] = content_type or "text/plain"
    try:
        charset = named.get_content_charset()
    except ValueError as error:  # the number of a parameter's section has thousands of digits
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"the Content-Type of {what} cannot be read") from error
    check_charset(charset, what)


async def read_json(call: Call, limit: int | None = None) -> bytes:
    """Return a whole JSON body; raises 415 for another Content-Type."""
    if content_type_of(call.request) != JSON:
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"this call accepts the Content-Type {JSON} only")
    check_charset(call.request.charset)
    return await read_whole(call, limit or call.gateway.settings.limits.json_bytes)


async def read_whole(call: Call, limit: int) -> bytes:
    """Return a whole body of any type."""
    content = call.request.content
    if content.is_eof() and content.exception() is None and not _coding(call):
        # all of it has arrived, as that of most requests
        body = content.read_nowait()
        if len(body) > limit:
            raise _too_large(limit)
        call.note_body(body)
        return body
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
    """Refuse a body, unless it is empty or an object without fields; raises 400 and 422.

    A client would believe that an ignored `reason`, filter or `dryRun` had taken effect.
    """
    if not call.request.can_read_body:
        return
    raw = (await read_whole(call, _LONGEST_NO_BODY)).removeprefix(BOM_UTF8).strip()
    if raw:
        decode_object(raw, _NoBody, "MALFORMED_JSON", "this call takes no body, and the body sent")


def _too_large(limit: int) -> ApiError:
    size = f"{limit / 1_048_576:g} MB" if limit >= 1_048_576 else f"{limit} bytes"
    return ApiError("BODY_TOO_LARGE", f"the body is larger than {size}", headers={"Connection": "close"})


def _too_slow() -> ApiError:
    return ApiError("REQUEST_TIMEOUT", headers={"Connection": "close"})


class Inflater:
    """Inflates one body; raises ApiError where the body does not match its Content-Encoding."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding == "gzip"
        self._coding = coding
        self._engine = zlib.decompressobj(_GZIP) if self._gzip else None
        self._taken = self._given = 0

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk inflates to, at most 64 KB at a time."""
        if not chunk:
            return
        if self._engine is None:
            # some senders of "deflate" leave out the zlib header (RFC 9110, 8.4.1.2)
            self._engine = zlib.decompressobj(_ZLIB if chunk[0] & 0x0F == 8 else _RAW)
        data = chunk
        self._taken += len(chunk)
        while True:
            if self._engine.eof:
                if not data.strip(b"\0"):
                    return  # nothing, or the padding that some tools write
                self._begin_member()
            try:
                piece = self._engine.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise self._broken("it cannot be decompressed") from error
            if piece:
                self._given += len(piece)
                if self._given > max(_ALWAYS_ALLOWED, _MOST_TIMES * self._taken):
                    raise _too_dense()
                yield piece
            data = self._engine.unused_data or self._engine.unconsumed_tail
            if not data and len(piece) < PIECE_BYTES:
                return

    def finish(self) -> None:
        """Note the end of the body; raises ApiError where the compressed data is incomplete."""
        if self._engine is not None and not self._engine.eof:
            raise self._broken("it ends too early")

    def _begin_member(self) -> None:
        """Continue with the next member of a gzip file (RFC 1952, 2.2)."""
        if not self._gzip:
            raise self._broken("data follows its end")
        self._engine = zlib.decompressobj(_GZIP)

    def _broken(self, why: str) -> ApiError:
        what = f"the Content-Encoding is {self._coding}, but the body is not: {why}"
        return ApiError("MALFORMED_REQUEST", what, headers={"Connection": "close"})


def _too_dense() -> ApiError:
    what = f"the body inflates to more than {_MOST_TIMES} times its size; send it uncompressed, or in parts"
    return ApiError("BODY_TOO_LARGE", what, headers={"Connection": "close"})


def coding_of(header: str) -> str:
    """Return the coding that a Content-Encoding header names, "" for none; raises ApiError 415 for an unknown one."""
    named = header.strip().lower()
    if named not in _CODINGS:
        what = f"the Content-Encoding {header.strip()[:60]!r} is not supported: use gzip, deflate or identity"
        raise ApiError("UNSUPPORTED_ENCODING", what, headers={"Accept-Encoding": "gzip, deflate, identity"})
    return _CODINGS[named]
