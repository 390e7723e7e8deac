"""`kurir logs`, `kurir query`: the logs of messages, of API requests and of the services."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from services.cli.api_client import (
    DEFAULT_LOGGER_URL,
    DEFAULT_URL,
    ApiClient,
    AsJson,
    DataDir,
    LoggerUrl,
    Url,
    call_api,
    call_logger,
)
from services.cli.terminal import print_json, stdout, table

_console = stdout()


class Of(StrEnum):
    """Which log."""

    MESSAGES = "messages"
    API = "api"
    SYSTEM = "system"


class Export(StrEnum):
    """The format of an export."""

    CSV = "csv"
    NDJSON = "ndjson"


_COLUMNS: Mapping[Of, Sequence[str]] = {
    Of.MESSAGES: (
        "updated_at",
        "job_id",
        "status",
        "delivery",
        "attempts",
        "recipient_email",
        "recipient_phone",
        "error_message",
    ),
    Of.API: ("created_at", "method", "endpoint", "response_status", "response_time_ms", "api_key", "error_message"),
    Of.SYSTEM: ("created_at", "level", "service", "message", "metadata"),
}


def logs(
    context: typer.Context,
    of: Annotated[Of, typer.Argument(help="Which log.")] = Of.MESSAGES,
    status: Annotated[str, typer.Option(help="A status, or several separated by commas (api: an HTTP status).")] = "",
    channel: Annotated[str, typer.Option(help="Only messages of this channel.")] = "",
    recipient: Annotated[
        str, typer.Option(help="Only messages to this address, or to addresses that begin with it.")
    ] = "",
    blast: Annotated[str, typer.Option(help="Only messages of this blast.")] = "",
    template: Annotated[str, typer.Option(help="Only messages made from this template.")] = "",
    reference: Annotated[str, typer.Option(help="Only messages with this reference.")] = "",
    error_class: Annotated[str, typer.Option(help="Only messages whose last error has this class.")] = "",
    delivery: Annotated[
        str, typer.Option(help="Only messages of which receipts report this: delivered, read, bounced …")
    ] = "",
    level: Annotated[str, typer.Option(help="System log: only events of this level.")] = "",
    since: Annotated[str, typer.Option("--from", help="Only rows from this time on (RFC 3339).")] = "",
    until: Annotated[str, typer.Option("--to", help="Only rows up to this time (RFC 3339).")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many rows.")] = 50,
    cursor: Annotated[str, typer.Option(help="Where the previous page ended.")] = "",
    export: Annotated[Export | None, typer.Option(help="Write every matching message to stdout.")] = None,
    spreadsheet: Annotated[bool, typer.Option(help="With --export csv: write a file for spreadsheets.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show a log, the latest first."""
    query = {
        "status": status,
        "channel": channel,
        "recipient": recipient,
        "blast": blast,
        "template": template,
        "reference": reference,
        "error_class": error_class,
        "delivery": delivery,
        "level": level,
        "from": since,
        "to": until,
    }
    path = f"/api/v1/logs/{of}"
    if export is not None:
        wanted = {**query, "format": export.value, "for": "spreadsheet" if spreadsheet else ""}
        call_api(context, url, lambda api: _write_out(api, path, wanted))
        return
    page = {**query, "limit": limit, "cursor": cursor}
    answer = call_api(context, url, lambda api: api.get(path, page))
    if as_json:
        print_json(answer)
        return
    _console.print(_table(answer["logs"], _COLUMNS[of]))
    if answer["nextCursor"]:
        _console.print(f"for older rows: --cursor {answer['nextCursor']}", markup=False, soft_wrap=True)


async def _write_out(api: ApiClient, path: str, query: Mapping[str, object]) -> None:
    async for chunk in api.lines(path, query):
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    shown = [name for name in columns if any(row.get(name) not in (None, "") for row in rows)] or columns[:1]
    made = table(shown, whole=("job_id", "status", "updated_at", "created_at"))
    for row in rows:
        made.add_row(*(Text("" if row.get(name) is None else str(row[name])) for name in shown))
    return made


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(help="One SELECT; SELECT name, sql FROM sqlite_schema lists the tables.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many rows.")] = 1000,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV to stdout.")] = False,
    url: LoggerUrl = DEFAULT_LOGGER_URL,
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Query the log's database in SQL; queries are read-only, and stopped after 5 s."""
    body = {"sql": sql, "limit": limit}
    answer = call_logger(context, url, data_dir, lambda api: api.post("/internal/query", body))
    rows = answer["rows"]
    columns = list(rows[0]) if rows else []
    if as_json:
        print_json(answer)
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        # without rows there are no columns, and a header of none would be an empty line
        writer.writerows([dict(zip(columns, columns, strict=True)), *rows] if rows else [])
    else:
        made = table(columns, whole=columns)
        for row in rows:
            made.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
        _console.print(made if rows else "no rows")
    if answer["cut"]:
        sys.stderr.write(f"kurir query: there are more than {limit} rows; raise --limit, up to 10,000\n")
