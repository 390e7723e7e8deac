"""Exporting: streams every matching suppression as CSV or NDJSON, with one block in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from services.ingest.http.errors import ApiError
from services.ingest.http.operation import Call
from services.ingest.suppressions.filters import SuppressionFilter
from services.ingest.suppressions.views import COLUMNS, SuppressionView, masked_view, row_of, view_of
from shared.errors import KurirError
from shared.logs import get_logger
from shared.queue.suppressions import Listed
from shared.spreadsheets import BOM, csv_of

TYPES = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
FORMATS = ("json", *TYPES)
SPREADSHEET = "spreadsheet"
_encoder = msgspec.json.Encoder()

log = get_logger()


@dataclass(frozen=True, slots=True)
class Export:
    """The form of an export: csv or ndjson; CSV for a `spreadsheet` has a byte order mark, and digits as text."""

    form: str
    spreadsheet: bool = False
    masked: bool = False

    def head(self) -> bytes:
        """Return the bytes before the first suppression."""
        if self.form != "csv":
            return b""
        return (BOM if self.spreadsheet else b"") + csv_of([COLUMNS])

    def encode(self, channel: str, block: Sequence[Listed]) -> bytes:
        """Return a block of suppressions as rows or lines."""
        if self.form == "csv":
            return csv_of([row_of(view) for view in self._views(channel, block)], spreadsheet=self.spreadsheet)
        return b"".join(_encoder.encode(view) + b"\n" for view in self._views(channel, block))

    def _views(self, channel: str, block: Sequence[Listed]) -> Iterator[SuppressionView]:
        views = (view_of(channel, one) for one in block)
        return map(masked_view, views) if self.masked else views


def read_export(query: Mapping[str, str], *, masked: bool) -> Export | None:
    """Read `format` and `for`; None for a page. Raises 400."""
    form, reader = query.get("format", "json"), query.get("for")
    if form not in FORMATS:
        raise ApiError("INVALID_QUERY", f"format cannot be {form[:60]!r}: use {' or '.join(FORMATS)}")
    if reader not in {None, SPREADSHEET} or (reader and form != "csv"):
        raise ApiError("INVALID_QUERY", f"for can only be {SPREADSHEET}, together with format=csv")
    return None if form == "json" else Export(form, bool(reader), masked)


async def write_export(call: Call, wanted: SuppressionFilter, export: Export) -> web.StreamResponse:
    """Stream every suppression that matches."""
    name = f'attachment; filename="suppressions.{export.form}"'
    headers = {"Content-Type": f"{TYPES[export.form]}; charset=utf-8", "Content-Disposition": name}
    response = web.StreamResponse(headers=headers)
    await response.prepare(call.request)
    if head := export.head():
        await response.write(head)
    try:
        for channel in wanted.channels:
            async for block in call.gateway.queue.suppressions.every(channel, wanted.matches):
                await response.write(export.encode(channel, block))
    except KurirError as error:
        # the status is already sent as a success: only a broken connection shows that rows are missing
        log.warning("export of suppressions aborted", reason=str(error))
        if call.request.transport is not None:
            call.request.transport.abort()
        return response
    await response.write_eof()
    return response
