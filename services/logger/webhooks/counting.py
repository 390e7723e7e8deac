"""Counting: how all webhooks do, for metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.logger.database import Database
from services.logger.webhooks.endpoints import BY_CLIENT, Row, read_rows
from services.logger.webhooks.views import count_waiting

# rows of the journal, for each endpoint: they take a millisecond
_LOOKED_AT = 2000
STATES = ("enabled", "failing", "disabled", "off")
"""`disabled` is by Kurir, `off` by the client."""


@dataclass(frozen=True, slots=True)
class WebhookSample:
    """Webhooks by state, the events that enabled ones have not got, the longest failure, and totals by name."""

    states: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    waiting: int = 0
    failing_s: float = 0.0
    totals: Mapping[str, int] = field(default_factory=dict)


def sample_webhooks(connection: Database, now_ms: int) -> WebhookSample:
    """Count everything once; a query for each endpoint."""
    rows = [row for row in read_rows(connection) if not row.deleted]
    states = Counter(map(_state, rows))
    failing = [row.failing_since_ms for row in rows if _state(row) == "failing"]
    return WebhookSample(
        states={state: states[state] for state in STATES},
        waiting=sum(count_waiting(connection, row, _LOOKED_AT) for row in rows if row.enabled),
        failing_s=max(0.0, (now_ms - min(failing)) / 1000) if failing else 0.0,
        totals=dict(connection.execute("SELECT name, n FROM webhook_totals").fetchall()),
    )


def _state(row: Row) -> str:
    if not row.enabled:
        return "off" if row.disabled_reason == BY_CLIENT else "disabled"
    return "failing" if row.failing_since_ms else "enabled"
