"""Logs and the dashboard: ingest forwards these calls to the logger."""

from __future__ import annotations

from aiohttp import web

from services.ingest.http.operation import JSON, Call, Handler, Operation, Parameter

_LIMIT = Parameter(
    "limit", "At most this many rows.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
)
_CURSOR = Parameter("cursor", "`nextCursor` of the previous page.")
_FROM = Parameter("from", "Only rows from this time on (RFC 3339).")
_TO = Parameter("to", "Only rows up to this time (RFC 3339).")
_PAGE = (_LIMIT, _CURSOR)
_MESSAGES = tuple(
    Parameter(name, text)
    for name, text in (
        ("status", "A job status, or several separated by commas."),
        ("channel", "A channel."),
        ("recipient", "An address, or the beginning of one, however it is written."),
        ("blast", "A blast's id."),
        ("template", "A template's id."),
        ("reference", "A recipient's or a blast's reference."),
        ("error_class", "The class of the last error."),
        ("delivery", "What receipts report: delivered, read, undelivered, bounced, complained; several with commas."),
    )
)
_REQUESTS = (
    Parameter("endpoint", "A path."),
    Parameter("method", "A method."),
    Parameter("status", "An HTTP status."),
)
_FORMAT = Parameter(
    "format", "Export all matching rows, not a page.", {"type": "string", "enum": ["json", "csv", "ndjson"]}
)
_FOR = Parameter(
    "for",
    "With `format=csv`: a file for spreadsheets, with a byte order mark and phone numbers as text.",
    {"type": "string", "enum": ["spreadsheet"]},
)
_TEXTS = (JSON, "text/csv", "application/x-ndjson")


FILTER = (*_MESSAGES, _FROM, _TO)
"""The parameters that choose messages of the log."""


def _passed_on(path: str) -> Handler:
    async def pass_on(call: Call) -> web.StreamResponse:
        return await call.gateway.logger.forward(call.request, path, masked=call.masked)

    return pass_on


def _operation(
    path: str, name: str, summary: str, parameters: tuple[Parameter, ...], content_types: tuple[str, ...] = (JSON,)
) -> Operation:
    return Operation(
        "GET", path, name, summary, _passed_on(f"/api{path}"), parameters=parameters,
        errors=("LOGGER_UNAVAILABLE", "INVALID_QUERY", "INVALID_CURSOR"), content_types=content_types, queue=False,
    )  # fmt: skip


OPERATIONS = [
    _operation("/logs/messages", "listMessageLogs", "List messages, the latest first",
               (*_MESSAGES, _FROM, _TO, *_PAGE, _FORMAT, _FOR), _TEXTS),
    _operation("/logs/messages/stats", "messageLogStats", "Count messages by status and channel",
               (*_MESSAGES, _FROM, _TO)),
    _operation("/logs/api", "listApiLogs", "List requests to this API, the latest first",
               (*_REQUESTS, _FROM, _TO, *_PAGE)),
    _operation("/logs/system", "listSystemLogs", "List warnings and errors of the services, the latest first",
               (Parameter("level", "A level."), Parameter("service", "A service."), _FROM, _TO, *_PAGE)),
    _operation("/dashboard", "dashboard", "Return the most important figures in one answer", ()),
]  # fmt: skip
