"""Endpoints in a database of the logger, and what they get."""

from __future__ import annotations

from typing import Any

import orjson

from services.logger.webhooks.bodies import COLUMNS, Journaled
from services.logger.webhooks.endpoints import Row, change, create, find, read_rows
from services.logger.webhooks.planning import Proposal, adopt, propose
from services.logger.webhooks.results import Report, apply_reports
from shared.events import Event
from shared.queue.webhook_queues import Outgoing
from shared.sealing import Seal
from tests.unit.logger.database import START_MS, Database

SEAL = Seal("a secret of the services, long enough")
FIVE_DAYS_MS = 5 * 86_400_000


def add(database: Database, **config: Any) -> Row:
    """Add an endpoint that Redis knows; by default it subscribes to everything."""
    wanted = {"url": "https://example.com/hook", "events": ["*"], **config}
    row, _ = create(database.connection, wanted, SEAL, START_MS)
    database.connection.execute("UPDATE webhook_endpoints SET unsynced = false WHERE number = ?", (row.number,))
    return again(database, row)


def again(database: Database, row: Row) -> Row:
    """Return an endpoint as it is now."""
    return next(one for one in read_rows(database.connection) if one.number == row.number)


def patch(database: Database, row: Row, at_ms: int = START_MS, **wanted: Any) -> Row:
    """Change an endpoint as its client does."""
    return change(database.connection, row.endpoint_id, wanted, at_ms)


def found(database: Database, row: Row) -> Row:
    return find(database.connection, row.endpoint_id)


def journal(database: Database) -> list[Journaled]:
    """Return the whole journal."""
    return [Journaled._make(row) for row in database.rows(f"SELECT {COLUMNS} FROM webhook_events ORDER BY id")]


def plan(database: Database, row: Row, now_ms: int = START_MS, *, recipients: bool = False) -> Proposal:
    """Return what an endpoint gets next."""
    return propose(database.connection, again(database, row), now_ms, recipients=recipients)


def take(database: Database, row: Row, now_ms: int = START_MS, *, recipients: bool = False) -> list[Outgoing]:
    """Hand everything out to an endpoint that fits its window."""
    taken: list[Outgoing] = []
    while True:
        proposal = plan(database, row, now_ms, recipients=recipients)
        taken += adopt(database.connection, proposal, now_ms)
        if not proposal.more:
            return taken


def bodies(outgoing: list[Outgoing]) -> list[dict[str, Any]]:
    """Return the bodies of deliveries."""
    return [orjson.loads(one.body) for one in outgoing]


def report(database: Database, row: Row, *events: Event, fails_for_ms: int = FIVE_DAYS_MS, now_ms: int = 0) -> bool:
    """Apply events of an endpoint's partition in one transaction."""
    reports = [Report(row.number, event) for event in events]
    return apply_reports(database.connection, reports, fails_for_ms, now_ms or START_MS)
