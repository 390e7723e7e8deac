"""Multipart bodies: their parts one after the other, as they arrive, within the body's size and time."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import BodyPartReader, MultipartReader
from aiohttp.http_exceptions import BadHttpMessage

from services.ingest.bodies import ENDINGS, Meter
from services.ingest.call import Call
from services.ingest.problems import ApiError

MULTIPART = "multipart/form-data"
_CHUNK = 65536
# what aiohttp raises over a body that is no multipart, or a part that it cannot decode
_BROKEN = (ValueError, AssertionError, RuntimeError, LookupError, BadHttpMessage, *ENDINGS)


class Part:
    """One part; it must be read before the next."""

    def __init__(self, reader: BodyPartReader, meter: Meter) -> None:
        self._reader = reader
        self._meter = meter
        self.name = reader.name or ""
        self.filename = reader.filename or ""
        self.content_type = reader.headers.get("Content-Type", "").partition(";")[0].strip().lower()

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
                raise ApiError("BODY_TOO_LARGE", f"the part {self.name} is too large", headers={"Connection": "close"})
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
    """Yield the parts of a multipart body; raises ApiError where it is none."""
    meter = Meter(call, call.gateway.settings.limits.upload_bytes)
    try:
        reader = MultipartReader(call.request.headers, call.request.content)
    except _BROKEN as error:
        raise _malformed(error) from error
    while (part := await meter.awaited(_next(reader))) is not None:
        yield Part(part, meter)


async def _next(reader: MultipartReader) -> BodyPartReader | None:
    try:
        part = await reader.next()
    except _BROKEN as error:
        raise _malformed(error) from error
    if isinstance(part, MultipartReader):
        raise ApiError("MALFORMED_MULTIPART", "a part is itself multipart")
    return part


def _malformed(error: BaseException) -> ApiError:
    return ApiError("MALFORMED_MULTIPART", f"the multipart body cannot be read: {type(error).__name__}")
