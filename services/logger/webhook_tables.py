"""The tables of webhooks.

`webhook_events` is the journal: one row per event, whatever the number of endpoints. Its ids rise and are never used
again, because the row with the highest one is never deleted; so an endpoint's `cursor`, the last id that was handed
out, is all that is known of its progress. A delivery's `events` are the ids of its events, packed as differences, so
that a repeated chunk has the same ones, whatever the endpoint's filters are by then. `reported` is the entry of the
endpoint's event stream that was applied last: without it, a database that was restored from a backup would wait for
reports that were taken from the stream since.
"""

from __future__ import annotations

WEBHOOKS = """
CREATE TABLE webhook_endpoints (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint_id TEXT NOT NULL UNIQUE,
    config TEXT NOT NULL,
    secrets TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    disabled_reason TEXT NOT NULL DEFAULT '',
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    enabled_at_ms INTEGER NOT NULL,
    failing_since_ms INTEGER NOT NULL DEFAULT 0,
    delivered_at_ms INTEGER NOT NULL DEFAULT 0,
    cursor INTEGER NOT NULL,
    next_n INTEGER NOT NULL DEFAULT 0,
    reported TEXT NOT NULL DEFAULT '0-0',
    unsynced INTEGER NOT NULL DEFAULT 1,
    deleted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE webhook_events (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    mark TEXT NOT NULL,
    channel TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    kept_at_ms INTEGER NOT NULL,
    data TEXT NOT NULL
);
CREATE TABLE webhook_deliveries (
    number INTEGER NOT NULL,
    n INTEGER NOT NULL,
    webhook_id TEXT NOT NULL,
    type TEXT NOT NULL,
    events BLOB NOT NULL,
    count INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    enqueued INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT 'waiting',
    state_rank INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    at_ms INTEGER NOT NULL DEFAULT 0,
    next_at_ms INTEGER NOT NULL DEFAULT 0,
    response_status INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    duration_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (number, n)
) WITHOUT ROWID;
CREATE INDEX idx_webhook_open ON webhook_deliveries(number, n) WHERE status IN ('waiting', 'retrying');
CREATE INDEX idx_webhook_failed ON webhook_deliveries(number, n) WHERE status = 'failed';
CREATE TABLE webhook_replays (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    number INTEGER NOT NULL,
    next_event INTEGER NOT NULL,
    last_event INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL
);
CREATE INDEX idx_webhook_replays ON webhook_replays(number, id);
CREATE TABLE webhook_totals (
    name TEXT PRIMARY KEY,
    n INTEGER NOT NULL
) WITHOUT ROWID;
"""
