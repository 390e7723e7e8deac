"""A blast's body in any of its forms: first its head, then its recipients, a block at a time.

JSON is held in memory; NDJSON, CSV and multipart are streamed. Everything read goes into a digest, which distinguishes
a repeated request from a different one.
"""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from services.ingest.blasts.csv_rows import CsvRow, csv_rows
from services.ingest.blasts.csv_text import codec_of
from services.ingest.blasts.multipart import MULTIPART, Part, parts_of
from services.ingest.http.bodies import check_charset, chunks, coding_of, read_whole
from services.ingest.http.decoding import decode_object, decode_struct, struct_of
from services.ingest.http.errors import ApiError, Problem
from services.ingest.http.operation import JSON, Call
from services.ingest.http.requests import BlastHead, BlastRequest
from shared.numbers import Number
from shared.web import content_type_of

NDJSON = "application/x-ndjson"
CSV = "text/csv"
FORMS = (JSON, NDJSON, CSV, MULTIPART)
_SLICE = 500
_NDJSON_TYPES = frozenset({NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_CSV_TYPES = frozenset({CSV, "application/csv", "text/x-csv", "text/tab-separated-values"})
_TYPES = {JSON, MULTIPART} | _NDJSON_TYPES | _CSV_TYPES
_LISTS = frozenset({"channels"})
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_NESTED = {"globalVariables", "metadata"}
_TIMES = {"scheduledAt", "expiresAt"}
_values = msgspec.json.Decoder(float_hook=Number)

Entry = bytes | msgspec.Raw | CsvRow


class Digest:
    """A hash of everything by which two requests are the same."""

    def __init__(self, *parts: str) -> None:
        self._hash = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape"))

    def update(self, data: bytes) -> None:
        """Add more of the request."""
        self._hash.update(data)

    def text(self) -> str:
        """Return the hash of everything added so far."""
        return self._hash.hexdigest()


@dataclass(slots=True)
class BlastBody:
    """A blast being read; `whole`: it is held in memory, so its answer can list every job id.

    `path` is the JSON path of its only recipient, "" for a list of recipients.
    """

    head: BlastHead
    entries: AsyncIterator[Sequence[Entry]]
    digest: Digest
    whole: bool = False
    path: str = ""

    async def drain(self) -> None:
        """Read the rest, only for the digest."""
        async for _ in self.entries:
            pass


async def read_blast_body(call: Call) -> BlastBody:
    """Begin to read a blast according to its Content-Type; raises ApiError where its head cannot be read."""
    kind = content_type_of(call.request)
    if kind not in _TYPES:
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"this call accepts the Content-Types {', '.join(FORMS)}")
    # only CSV is accepted in other encodings, since spreadsheets write them
    codec = codec_of(call.request.charset or "") if kind in _CSV_TYPES else ""
    if not codec:
        check_charset(call.request.charset)
    coding_of(call.request.headers.get("Content-Encoding", ""))
    if kind not in _CSV_TYPES and (given := next(iter(call.request.query), "")):
        what = f"move {given[:60]!r} into the body: query parameters are allowed with {CSV} only"
        raise ApiError("INVALID_QUERY", what, [Problem(given[:60], "INVALID_QUERY", what)])
    digest = Digest("blast", kind, call.request.query_string)
    if kind == JSON:
        return await _json(call, digest)
    if kind in _CSV_TYPES:
        digest.update(codec.encode())
        call.note_no_more()
        body = _hashed(chunks(call, call.gateway.settings.limits.upload_bytes), digest)
        return BlastBody(_head_of_query(call.request.query), _rows(call, body, codec), digest)
    if kind in _NDJSON_TYPES:
        body = _hashed(chunks(call, call.gateway.settings.limits.upload_bytes), digest)
        return await _ndjson(call, body, digest)
    # the boundary of a multipart body differs each time
    return await _multipart(call, Digest("blast", kind))


async def _json(call: Call, digest: Digest) -> BlastBody:
    raw = await read_whole(call, call.gateway.settings.limits.json_bytes)
    digest.update(raw)
    request = decode_struct(raw, BlastRequest)
    return BlastBody(request, slices(request.recipients), digest, whole=True)


async def slices(recipients: Sequence[msgspec.Raw]) -> AsyncIterator[Sequence[Entry]]:
    """Yield recipients from memory, a block at a time."""
    for start in range(0, len(recipients), _SLICE):
        yield recipients[start : start + _SLICE]


async def _ndjson(call: Call, body: AsyncIterator[bytes], digest: Digest) -> BlastBody:
    lines = ndjson_lines(body, call.gateway.settings.limits.line_bytes)
    first = await anext(lines, None)
    if first is None:
        raise ApiError("MALFORMED_NDJSON")
    head = decode_object(first[0], BlastHead, "MALFORMED_NDJSON", "the first line")
    return BlastBody(head, _after(first[1:], lines), digest)


async def _after(first: list[bytes], lines: AsyncIterator[list[bytes]]) -> AsyncIterator[Sequence[Entry]]:
    if first:
        yield first
    async for block in lines:
        yield block


async def _rows(call: Call, body: AsyncIterator[bytes], codec: str) -> AsyncIterator[Sequence[Entry]]:
    async for rows in csv_rows(body, call.gateway.settings.limits.line_bytes, codec):
        yield rows


async def _hashed(body: AsyncIterator[bytes], digest: Digest) -> AsyncIterator[bytes]:
    async for chunk in body:
        digest.update(chunk)
        yield chunk


async def _multipart(call: Call, digest: Digest) -> BlastBody:
    parts = parts_of(call)
    head_part = await anext(parts, None)
    if head_part is None or head_part.name != "blast":
        raise ApiError("MALFORMED_MULTIPART", "the first part must be `blast`, the second `recipients`")
    head_part.check_charset()
    raw = await head_part.whole(call.gateway.settings.limits.json_bytes)
    digest.update(raw)
    call.note_no_more()
    head = decode_object(raw, BlastHead, "MALFORMED_MULTIPART", "the part `blast`")
    part = await anext(parts, None)
    if part is None or part.name != "recipients":
        raise ApiError("MALFORMED_MULTIPART", "the part after `blast` must be `recipients`")
    is_ndjson = part.content_type in _NDJSON_TYPES or part.filename.lower().endswith((".ndjson", ".jsonl"))
    if is_ndjson:
        part.check_charset()
    codec = "" if is_ndjson else codec_of(part.charset)
    digest.update(f"\0{part.content_type}\0{codec}".encode())
    body, limit = _hashed(part.chunks(), digest), call.gateway.settings.limits.line_bytes
    blocks: AsyncIterator[Sequence[Entry]] = ndjson_lines(body, limit) if is_ndjson else csv_rows(body, limit, codec)
    return BlastBody(head, _last(blocks, parts), digest)


async def _last(blocks: AsyncIterator[Sequence[Entry]], parts: AsyncIterator[Part]) -> AsyncIterator[Sequence[Entry]]:
    """Yield the blocks of the last part; raises ApiError where another part follows it."""
    async for block in blocks:
        yield block
    if await anext(parts, None) is not None:
        raise ApiError("MALFORMED_MULTIPART", "`recipients` must be the last part")


def _head_of_query(query: Mapping[str, str]) -> BlastHead:
    """Read a head from query parameters: JSON names, comma-separated lists, objects as JSON or `metadata.key=value`."""
    value: dict[str, Any] = {}
    for name, text in query.items():
        outer, dot, inner = name.partition(".")
        if dot and outer in _NESTED:
            nested = value.setdefault(outer, {})
            if isinstance(nested, dict):
                nested[inner] = text
        else:
            value[name] = _of_query(name, text)
    return struct_of(value, BlastHead)


def _of_query(name: str, text: str) -> Any:
    if name in _LISTS:
        return [item.strip() for item in text.split(",") if item.strip()]
    if name == "priority" and text.isascii() and text.isdecimal():
        return int(text[:9])
    if name == "dryRun":
        return _FLAGS.get(text.lower(), text)
    if name in _NESTED or name == "attachments":
        try:
            return _values.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return text
    # a "+" that a client did not escape arrives as a space
    return text.replace(" ", "+") if name in _TIMES and "T" in text else text


async def ndjson_lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[list[bytes]]:
    """Yield the lines of each chunk without line ends; raises ApiError where one is longer than `limit` bytes.

    Skips blank lines, and a byte order mark before the first line.
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
