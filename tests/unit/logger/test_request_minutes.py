"""The counts of API requests by minute."""

from __future__ import annotations

from shared.events import ApiRequest
from tests.unit.logger.database import START_MS, Database, entry

MINUTE = START_MS // 60_000


def request(minute: int, status: int, took_ms: int) -> ApiRequest:
    return ApiRequest(START_MS + minute * 60_000, "/x", "GET", "", "", status, took_ms)


def test_requests_are_counted_by_minute_over_all_batches(database: Database) -> None:
    """Each once, with errors of the client and of the server apart, the time of all and that of the slowest."""
    database.apply(entry(1, request(0, 202, 5), request(1, 500, 9)), entry(2, request(0, 404, 2)))
    database.apply(entry(2, request(0, 404, 2)), entry(3, request(0, 503, 4), request(0, 499, 3)))
    columns = "minute, requests, client_errors, server_errors, time_ms, slowest_ms"
    assert database.rows(f"SELECT {columns} FROM api_minutes ORDER BY minute") == [
        (MINUTE, 4, 2, 1, 14, 5),
        (MINUTE + 1, 1, 0, 1, 9, 9),
    ]
