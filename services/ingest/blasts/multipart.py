"""Multipart bodies: their parts in order, as they arrive, within the body's limits of size and time."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from typing import Any, cast

from aiohttp import (
    BadContentDispositionHeader,
    BadContentDispositionParam,
    BodyPartReader,
    MultipartReader,
    StreamReader,
)
from aiohttp.http_exceptions import BadHttpMessage

from services.ingest.http.bodies import ENDINGS, Meter, check_charset_of, coding_of
from services.ingest.http.errors import ApiError
from services.ingest.http.operation import Call
from shared.foreign_text import valid

MULTIPART = "multipart/form-data"
_CHUNK = 65536
_MOST_LINES = 200
# the exceptions of aiohttp for a body that is not multipart, or a part that it cannot decode
_BROKEN = (ValueError, AssertionError, RuntimeError, LookupError, BadHttpMessage, *ENDINGS)
# aiohttp warns of a malformed Content-Disposition by its text, and Python would log and keep each such text for good;
# the part has no name then, which the answer says
for _category in (BadContentDispositionHeader, BadContentDispositionParam):
    warnings.simplefilter("ignore", _category)


class Part:
    """One part; it must be read before the next one."""

    def __init__(self, reader: BodyPartReader, meter: Meter) -> None:
        self._reader = reader
        self._meter = meter
        self.name = valid(reader.name or "")
        self.filename = valid(reader.filename or "")
        self.charset = valid(reader.get_charset(""))
        self._named = valid(reader.headers.get("Content-Type", ""))
        self.content_type = self._named.partition(";")[0].strip().lower()
        if coding_of(reader.headers.get("Content-Encoding", "")):
            raise ApiError("UNSUPPORTED_ENCODING", "the parts of a multipart body must not be compressed")

    def check_charset(self) -> None:
        """Raise ApiError where it names a character set other than UTF-8."""
        check_charset_of(self._named, f"the part {self.name[:40]!r}")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield its content as it arrives."""
        while chunk := await self._meter.awaited(self._chunk()):
            self._meter.received(chunk)
            yield chunk

    async def whole(self, limit: int) -> bytes:
        """Return its content; raises ApiError where it is larger than `limit` bytes."""
        found = bytearray()
        async for chunk in self.chunks():
            found += chunk
            if len(found) > limit:
                what = f"the part `{self.name}` is larger than {limit} bytes"
                raise ApiError("BODY_TOO_LARGE", what, headers={"Connection": "close"})
        return bytes(found)

    async def _chunk(self) -> bytes:
        try:
            while not self._reader.at_eof():
                if chunk := await self._reader.read_chunk(_CHUNK):
                    return self._reader.decode(chunk)
        except _BROKEN as error:
            raise _malformed(error) from error
        return b""


async def parts_of(call: Call) -> AsyncIterator[Part]:
    """Yield the parts of a multipart body; raises ApiError where it is not one, or compressed."""
    if coding_of(call.request.headers.get("Content-Encoding", "")):
        raise ApiError("UNSUPPORTED_ENCODING", "a multipart body must not be compressed; NDJSON and CSV bodies may be")
    meter = Meter(call, call.gateway.settings.limits.upload_bytes)
    try:
        reader = MultipartReader(call.request.headers, cast("StreamReader", _Lines(call.request.content)))
    except _BROKEN as error:
        raise _malformed(error) from error
    while (part := await meter.awaited(_next(reader))) is not None:
        yield Part(part, meter)


class _Lines:
    """A body with at most 200 lines before a part: reading boundaries and headers line by line is slow."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content
        self._lines = 0

    async def readline(self, **limits: Any) -> bytes:
        self._lines += 1
        if self._lines > _MOST_LINES:
            raise ValueError("too many lines before a part")
        return await self._content.readline(**limits)

    async def read(self, n: int = -1) -> bytes:
        self._lines = 0
        return await self._content.read(n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


async def _next(reader: MultipartReader) -> BodyPartReader | None:
    try:
        part = await reader.next()
    except _BROKEN as error:
        raise _malformed(error) from error
    if isinstance(part, MultipartReader):
        raise ApiError("MALFORMED_MULTIPART", "a part must not itself be multipart")
    return part


def _malformed(error: BaseException) -> ApiError:
    if isinstance(error, RuntimeError):
        return ApiError("MALFORMED_MULTIPART", "a part has an unsupported Content-Transfer-Encoding; use binary")
    what = "the multipart body is incomplete, or its boundary or part headers are malformed"
    return ApiError("MALFORMED_MULTIPART", what)
