"""Suppressions from CSV files: our own exports, and lists from other systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from aiohttp import web
from msgspec import UNSET, UnsetType

from services.ingest.blasts.csv_rows import csv_rows
from services.ingest.blasts.csv_text import codec_of
from services.ingest.blasts.spool import disk_trouble
from services.ingest.http.bodies import READING_ERRORS, chunks
from services.ingest.http.errors import ApiError, Problem
from services.ingest.http.operation import Body, Call, Operation, Parameter
from services.ingest.http.responses import Answer, json_response
from services.ingest.suppressions.importing import How, import_rows
from services.ingest.suppressions.rows import Defaults, RowReader
from shared.channels import CHANNELS
from shared.suppressions import SCOPES, SOURCES, Scope, Source
from shared.web import content_type_of

_CSV = "text/csv"
_VALIDATIONS = ("strict", "permissive")
_FLAGS = ("false", "true")
_LONGEST_REASON = 200


class ImportAnswer(Answer, kw_only=True, frozen=True):
    """The result of an import.

    `total` suppressions were read: `added` were new, `changed` extended an existing one, `unchanged` existed already or
    have expired. `rejected` rows were refused; `errors` says why (the first 100). `ignoredColumns` match no field.
    """

    total: int
    added: int
    changed: int
    unchanged: int
    rejected: int = 0
    errors: list[Problem] | UnsetType = UNSET
    ignored_columns: list[str]
    dry_run: bool | UnsetType = UNSET


async def _import(call: Call) -> web.Response:
    if content_type_of(call.request) != _CSV:
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"this call accepts the Content-Type {_CSV} only")
    codec = codec_of(call.request.charset or "")
    query, limits = call.request.query, call.gateway.settings.limits
    reader = RowReader(_defaults(call, query))
    how = How(_choice(query, "validation", _VALIDATIONS) == "permissive", _choice(query, "dryRun", _FLAGS) == "true")
    rows = csv_rows(chunks(call, limits.upload_bytes), limits.line_bytes, codec, reader.read_columns)
    with disk_trouble():
        imported = await import_rows(rows, reader, call.gateway.queue, call.gateway.spool_folder, how)
    return json_response(
        ImportAnswer(
            total=imported.total,
            added=imported.stored["new"],
            changed=imported.stored["changed"],
            unchanged=imported.stored["kept"],
            rejected=imported.rejected,
            errors=imported.problems or UNSET,
            ignored_columns=reader.ignored,
            dry_run=True if how.dry else UNSET,
        )
    )


def _defaults(call: Call, query: Mapping[str, str]) -> Defaults:
    reason = query.get("reason", "imported")
    if len(reason) > _LONGEST_REASON:
        raise ApiError("INVALID_QUERY", f"reason is longer than {_LONGEST_REASON} characters")
    return Defaults(
        region=call.gateway.settings.default_region,
        now_ms=call.gateway.clock.now_ms(),
        channel=_choice(query, "channel", tuple(CHANNELS)) or "",
        scope=cast("Scope | None", _choice(query, "scope", SCOPES)),
        source=cast("Source", _choice(query, "source", SOURCES) or "import"),
        reason=reason,
        by=call.key_name,
    )


def _choice(query: Mapping[str, str], name: str, options: Sequence[str]) -> str | None:
    text = query.get(name)
    if text is not None and text not in options:
        raise ApiError("INVALID_QUERY", f"{name} cannot be {text[:60]!r}: use {' or '.join(options)}")
    return text


_FILE: dict[str, Any] = {
    "type": "string",
    "description": "A header row, then one row per address. Columns, in any order and case: `address` (or `email`, "
    "`phone`), `channel`, `scope`, `source`, `reason`, `createdAt`, `expiresAt`, `jobId`, `words`, `by`.",
    "example": "email,reason\nsiti@example.com,asked by phone\n",
}


def _only(name: str, description: str, options: Sequence[str]) -> Parameter:
    return Parameter(name, description, {"type": "string", "enum": list(options)})


OPERATIONS = [
    Operation("POST", "/suppressions/import", "importSuppressions",
              "Suppress every address of a CSV file; safe to repeat",
              _import, "admin", ImportAnswer, body=Body({_CSV: _FILE}),
              errors=(*READING_ERRORS, "UNSUPPORTED_MEDIA_TYPE", "MALFORMED_CSV", "INVALID_QUERY", "VALIDATION_FAILED",
                      "STORAGE_UNAVAILABLE", "BACKLOG_FULL"),
              parameters=(_only("channel", "For rows that name none.", tuple(CHANNELS)),
                          _only("scope", "For rows that name none; by default, the source decides.", SCOPES),
                          _only("source", "For rows that name none.", SOURCES),
                          Parameter("reason", "For rows that name none.", {"type": "string", "maxLength": 200}),
                          _only("validation", "strict stores nothing if any row is invalid.", _VALIDATIONS),
                          _only("dryRun", "true checks the file and stores nothing.", _FLAGS))),
]  # fmt: skip
