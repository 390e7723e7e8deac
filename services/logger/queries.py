"""Queries of the logs: filtered, the latest first, in pages, and fast among ten million rows.

A page is found in two steps. First, `streams` chooses one index by the filter's fields and yields ids from it, merged
with the latest first. Then the rows of these ids are read, and the rest of the filter is checked on them. A page checks
about `SCAN_ROWS` rows at most: if few of them match, the page is short, and its cursor continues from there.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import orjson

from services.logger.database import Database
from services.logger.filters import ApiFilter, MessageFilter, Page, Span, SystemFilter
from services.logger.streams import RECIPIENT_COLUMNS, Ids, IdStream, message_streams
from shared.clock import rfc3339

SCAN_ROWS = 10_000
_CHUNK_ROWS = 1000
_NEWEST = (1 << 63) - 1

MESSAGE_COLUMNS = (
    "id", "job_id", "channel", "recipient_email", "recipient_phone", "recipient_name", "template_id",
    "template_name", "subject", "status", "error_message", "message_id", "attempts", "created_at", "updated_at",
    "blast_id", "reference", "run", "error_class", "error_code", "response", "duration_ms", "next_at",
    "delivery", "delivery_at",
)  # fmt: skip
API_COLUMNS = (
    "id", "endpoint", "method", "ip_address", "request_body", "response_status", "response_time_ms",
    "error_message", "created_at", "request_id", "api_key",
)  # fmt: skip
SYSTEM_COLUMNS = ("id", "level", "message", "metadata", "created_at", "service")

Row = tuple[Any, ...]
Condition = tuple[str, list[Any]]
Bounds = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A page of rows with the table's columns in order; the next page starts below `next_id`, 0 at the end."""

    rows: list[Row]
    next_id: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table of logs and the columns that the API shows."""

    name: str
    columns: Sequence[str]

    def rows_of(self, conditions: Sequence[Condition]) -> str:
        """Return the query that selects rows by ids and conditions, the latest first."""
        where = "".join(f" AND {text}" for text, _ in conditions)
        columns = ", ".join(self.columns)
        return (
            f"SELECT {columns} FROM {self.name}"  # noqa: S608 -- names and conditions are this module's own
            f" WHERE id IN (SELECT value FROM json_each(?)){where} ORDER BY id DESC"
        )


@dataclass(frozen=True, slots=True)
class Search:
    """A search of a table: streams of ids, the conditions to check on their rows, and bounds for the ids."""

    table: Table
    streams: Sequence[Ids]
    conditions: Sequence[Condition]
    bounds: Bounds

    def ids(self, connection: Database, cursor: int) -> Iterator[int]:
        """Yield the ids of all streams in descending order, each once, below the cursor (0: from the latest)."""
        low, high = self.bounds
        below = min(cursor or _NEWEST, high + 1 if high < _NEWEST else _NEWEST)
        merged = heapq.merge(*(stream.ids(connection, low, below) for stream in self.streams), reverse=True)
        # a row found by two streams appears twice in a row
        return (one for one, _ in groupby(merged))

    def parameters(self, ids: Sequence[int]) -> list[Any]:
        """Return the parameters of a query by ids and conditions."""
        return [orjson.dumps(ids).decode(), *(value for _, values in self.conditions for value in values)]


MESSAGES = Table("message_logs", MESSAGE_COLUMNS)
API = Table("api_logs", API_COLUMNS)
SYSTEM = Table("system_logs", SYSTEM_COLUMNS)


def find_messages(connection: Database, wanted: MessageFilter, page: Page) -> Found:
    """Return a page of messages."""
    return _find(connection, _message_search(connection, wanted), page)


def count_rows(connection: Database, wanted: MessageFilter, most: int) -> tuple[Counter[tuple[str, str, str]], bool]:
    """Count by channel, status and delivery ("" for none) the matches among the latest `most` or so rows of the index.

    The second value is False if the index finds more rows.
    """
    search = _message_search(connection, wanted)
    where = "".join(f" AND {text}" for text, _ in search.conditions)
    query = (
        "SELECT channel, status, coalesce(delivery, ''), count(*) FROM message_logs"  # noqa: S608 -- own conditions
        f" WHERE id IN (SELECT value FROM json_each(?)){where} GROUP BY 1, 2, 3"
    )
    counts: Counter[tuple[str, str, str]] = Counter()
    ids = search.ids(connection, 0)
    for chunk in iter(lambda: list(islice(ids, _CHUNK_ROWS)), []):
        for channel, status, delivery, n in connection.execute(query, search.parameters(chunk)):
            counts[channel, status, delivery] += n
        most -= len(chunk)
        if most <= 0:
            return counts, next(ids, None) is None
    return counts, True


def _message_search(connection: Database, wanted: MessageFilter) -> Search:
    bounds = id_bounds(connection, wanted.span)
    streams, covered = message_streams(connection, wanted)
    conditions = [*_message_conditions(wanted, covered), *_time_conditions(wanted.span)]
    return Search(MESSAGES, streams, conditions, bounds)


def find_requests(connection: Database, wanted: ApiFilter, page: Page) -> Found:
    """Return a page of API requests."""
    conditions = _time_conditions(wanted.span)
    if wanted.method:
        conditions.append(("method = ?", [wanted.method]))
    if wanted.endpoint:
        stream = IdStream("api_logs", "idx_api_endpoint", "endpoint = ?", (wanted.endpoint,))
        if wanted.status:
            conditions.append(("response_status = ?", [wanted.status]))
    elif wanted.status:
        stream = IdStream("api_logs", "idx_api_status", "response_status = ?", (wanted.status,))
    else:
        stream = IdStream("api_logs")
    bounds = id_bounds(connection, wanted.span, "request_minutes")
    return _find(connection, Search(API, [stream], conditions, bounds), page)


def find_system_events(connection: Database, wanted: SystemFilter, page: Page) -> Found:
    """Return a page of system events."""
    conditions = _time_conditions(wanted.span)
    if wanted.levels:
        streams = [IdStream("system_logs", "idx_system_level", "level = ?", (level,)) for level in wanted.levels]
        if wanted.service:
            conditions.append(("service = ?", [wanted.service]))
    elif wanted.service:
        streams = [IdStream("system_logs", "idx_system_service", "service = ?", (wanted.service,))]
    else:
        streams = [IdStream("system_logs")]
    bounds = id_bounds(connection, wanted.span, "system_minutes")
    return _find(connection, Search(SYSTEM, streams, conditions, bounds), page)


def id_bounds(connection: Database, span: Span, minutes: str = "created_minutes") -> tuple[int, int]:
    """Return bounds for the ids of the rows in a span of time; rows outside the span may lie between them too.

    The table `minutes` has the first and last id of each minute's rows: events arrive in any order, so rows of one
    minute may have ids far apart.
    """
    low, high = 0, _NEWEST
    if span.from_ms is not None:
        query = f"SELECT min(first_id) FROM {minutes} WHERE minute >= ?"  # noqa: S608 -- own names
        found = connection.execute(query, (span.from_ms // 60_000,)).fetchone()[0]
        low = _NEWEST if found is None else int(found)
    if span.to_ms is not None:
        query = f"SELECT max(last_id) FROM {minutes} WHERE minute <= ?"  # noqa: S608 -- own names
        found = connection.execute(query, (span.to_ms // 60_000,)).fetchone()[0]
        high = 0 if found is None else int(found)
    return low, high


def _find(connection: Database, search: Search, page: Page) -> Found:
    """Return a page of the rows that meet the conditions."""
    query = search.table.rows_of(search.conditions)
    ids = search.ids(connection, page.cursor)
    rows: list[Row] = []
    scanned, size = 0, page.limit + 1
    while chunk := list(islice(ids, size)):
        rows += connection.execute(query, search.parameters(chunk))
        if len(rows) > page.limit:
            return Found(rows[: page.limit], rows[page.limit - 1][0])
        scanned += len(chunk)
        if scanned >= SCAN_ROWS:
            return Found(rows, chunk[-1])
        size = _CHUNK_ROWS
    return Found(rows, 0)


def _message_conditions(wanted: MessageFilter, covered: frozenset[str]) -> list[Condition]:
    """Return the conditions that the chosen index does not cover, to check on the rows."""
    equal = {"blast": "blast_id", "template": "template_id", "error_class": "error_class"}
    conditions: list[Condition] = [
        (f"{column} = ?", [getattr(wanted, name)])
        for name, column in equal.items()
        if getattr(wanted, name) and name not in covered
    ]
    for name, column in {"statuses": "status", "channels": "channel", "deliveries": "delivery"}.items():
        values: tuple[str, ...] = getattr(wanted, name)
        if values and name not in covered:
            conditions.append((f"{column} IN ({', '.join('?' * len(values))})", list(values)))
    if wanted.recipient and "recipient" not in covered:
        either = " OR ".join(
            f"{column} >= ? AND {column} < ?" for column in RECIPIENT_COLUMNS for _ in wanted.recipient
        )
        ends = [end for ends in wanted.recipient_ranges for end in ends]
        conditions.append((f"({either})", ends * len(RECIPIENT_COLUMNS)))
    if wanted.reference and "reference" not in covered:
        of_blast = "(SELECT reference FROM blasts b WHERE b.blast_id = message_logs.blast_id)"
        conditions.append((f"(reference = ? OR {of_blast} = ?)", [wanted.reference] * 2))
    return conditions


def _time_conditions(span: Span) -> list[Condition]:
    conditions: list[Condition] = []
    if span.from_ms is not None:
        conditions.append(("created_at >= ?", [rfc3339(span.from_ms)]))
    if span.to_ms is not None:
        conditions.append(("created_at <= ?", [rfc3339(span.to_ms)]))
    return conditions
