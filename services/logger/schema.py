"""The schema: tables, indexes and migrations, versioned by `PRAGMA user_version`.

`message_logs`, `api_logs` and `system_logs` begin with the columns and indexes of the old system, in the order that its
clients know; Kurir's own follow. Rows are listed by descending id. An index on one column returns the matches of a
filter in that order, since SQLite appends the id to every index.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from sqlite_utils import Database

from services.logger.webhook_tables import WEBHOOKS
from shared.addresses import other_identity
from shared.errors import KurirError

_LOGS = """
CREATE TABLE message_logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    recipient_email TEXT,
    recipient_phone TEXT,
    recipient_name TEXT NOT NULL,
    template_id TEXT NOT NULL,
    template_name TEXT,
    subject TEXT,
    status TEXT NOT NULL,
    error_message TEXT,
    message_id TEXT,
    attempts INTEGER DEFAULT 1,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    blast_id TEXT NOT NULL DEFAULT '',
    reference TEXT,
    run INTEGER NOT NULL DEFAULT 1,
    error_class TEXT,
    error_code TEXT,
    response TEXT,
    duration_ms INTEGER,
    next_at TEXT,
    state_rank INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX idx_job_id ON message_logs(job_id);
CREATE INDEX idx_status ON message_logs(status);
CREATE INDEX idx_channel ON message_logs(channel);
CREATE INDEX idx_recipient_email ON message_logs(recipient_email);
CREATE INDEX idx_created_at ON message_logs(created_at);
CREATE INDEX idx_recipient_phone ON message_logs(recipient_phone) WHERE recipient_phone IS NOT NULL;
CREATE INDEX idx_blast ON message_logs(blast_id, channel, status);
CREATE INDEX idx_template_id ON message_logs(template_id);
CREATE INDEX idx_reference ON message_logs(reference) WHERE reference IS NOT NULL;
CREATE INDEX idx_error_class ON message_logs(error_class) WHERE error_class IS NOT NULL;

CREATE TABLE api_logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint TEXT NOT NULL,
    method TEXT NOT NULL,
    ip_address TEXT,
    request_body TEXT,
    response_status INTEGER,
    response_time_ms INTEGER,
    error_message TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    request_id TEXT,
    api_key TEXT
);
CREATE INDEX idx_api_endpoint ON api_logs(endpoint);
CREATE INDEX idx_api_created_at ON api_logs(created_at);
CREATE INDEX idx_api_status ON api_logs(response_status);

CREATE TABLE system_logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    metadata TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    service TEXT NOT NULL DEFAULT ''
);
CREATE INDEX idx_system_level ON system_logs(level);
CREATE INDEX idx_system_created_at ON system_logs(created_at);
CREATE INDEX idx_system_service ON system_logs(service);
"""

_STORIES = """
CREATE TABLE message_attempts (
    job_id TEXT NOT NULL,
    run INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    deferral INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    error_class TEXT NOT NULL,
    error_code TEXT NOT NULL,
    error_message TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    next_at_ms INTEGER NOT NULL,
    PRIMARY KEY (job_id, run, attempt, deferral)
) WITHOUT ROWID;
CREATE INDEX idx_attempts_at ON message_attempts(at_ms);

CREATE TABLE dead_letters (
    job_id TEXT PRIMARY KEY,
    blast_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    run INTEGER NOT NULL,
    error_class TEXT NOT NULL,
    job BLOB NOT NULL,
    failed_at_ms INTEGER NOT NULL
);
CREATE INDEX idx_dead_letters_blast ON dead_letters(blast_id, channel);

CREATE TABLE retry_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    blast_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    jobs BLOB NOT NULL,
    letters BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL
);

CREATE TABLE blasts (
    blast_id TEXT PRIMARY KEY,
    state TEXT NOT NULL DEFAULT 'running',
    template_id TEXT NOT NULL DEFAULT '',
    template_name TEXT NOT NULL DEFAULT '',
    template_hash BLOB,
    channels TEXT NOT NULL DEFAULT '[]',
    totals TEXT NOT NULL DEFAULT '{}',
    total_recipients INTEGER NOT NULL DEFAULT 0,
    total_messages INTEGER NOT NULL DEFAULT 0,
    lane TEXT NOT NULL DEFAULT '',
    reference TEXT NOT NULL DEFAULT '',
    metadata TEXT NOT NULL DEFAULT '{}',
    api_key TEXT NOT NULL DEFAULT '',
    created_at_ms INTEGER NOT NULL,
    scheduled_at_ms INTEGER NOT NULL DEFAULT 0,
    expires_at_ms INTEGER NOT NULL DEFAULT 0,
    ended_at_ms INTEGER NOT NULL DEFAULT 0,
    paused_at_ms INTEGER NOT NULL DEFAULT 0,
    resumed_at_ms INTEGER NOT NULL DEFAULT 0,
    cancelled_at_ms INTEGER NOT NULL DEFAULT 0,
    incomplete_at_ms INTEGER NOT NULL DEFAULT 0,
    reopened_at_ms INTEGER NOT NULL DEFAULT 0,
    pause_reason TEXT NOT NULL DEFAULT '',
    ends TEXT NOT NULL DEFAULT '{}',
    snapshot BLOB
);
CREATE INDEX idx_blasts_created ON blasts(created_at_ms, blast_id);
CREATE INDEX idx_blasts_state ON blasts(state, created_at_ms, blast_id);
CREATE INDEX idx_blasts_template ON blasts(template_id, created_at_ms, blast_id);
CREATE INDEX idx_blasts_reference ON blasts(reference, created_at_ms, blast_id);
CREATE INDEX idx_blasts_template_hash ON blasts(template_hash);

CREATE TABLE blast_templates (
    hash BLOB PRIMARY KEY,
    content BLOB NOT NULL
) WITHOUT ROWID;
"""

_APPLIED = """
CREATE TABLE event_producers (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE applied_events (
    producer INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    applied_at INTEGER NOT NULL,
    PRIMARY KEY (producer, sequence)
) WITHOUT ROWID;
CREATE TABLE undecodable_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    error TEXT NOT NULL,
    raw BLOB NOT NULL,
    created_at DATETIME NOT NULL,
    UNIQUE (stream, entry_id)
);
"""

_TALLIES = """
CREATE TABLE message_counts (
    channel TEXT NOT NULL,
    status TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (channel, status)
) WITHOUT ROWID;
CREATE TABLE message_totals (
    channel TEXT NOT NULL,
    status TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (channel, status)
) WITHOUT ROWID;
CREATE TABLE blast_counts (
    blast_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    status TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (blast_id, channel, status)
) WITHOUT ROWID;
CREATE TABLE message_minutes (
    minute INTEGER NOT NULL,
    channel TEXT NOT NULL,
    queued INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    retried INTEGER NOT NULL DEFAULT 0,
    other INTEGER NOT NULL DEFAULT 0,
    duration_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (minute, channel)
) WITHOUT ROWID;
CREATE TABLE created_minutes (
    minute INTEGER PRIMARY KEY,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL
);
CREATE TABLE error_days (
    day INTEGER NOT NULL,
    channel TEXT NOT NULL,
    error_class TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (day, channel, error_class)
) WITHOUT ROWID;
CREATE TABLE api_minutes (
    minute INTEGER PRIMARY KEY,
    requests INTEGER NOT NULL,
    client_errors INTEGER NOT NULL,
    server_errors INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    slowest_ms INTEGER NOT NULL
);
"""

# for each minute the first and last id of the rows created in it, as `created_minutes` has them for messages
_MINUTES = """
CREATE TABLE request_minutes (
    minute INTEGER PRIMARY KEY,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL
);
CREATE TABLE system_minutes (
    minute INTEGER PRIMARY KEY,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL
);
INSERT INTO request_minutes
    SELECT CAST(strftime('%s', created_at) AS INTEGER) / 60, min(id), max(id) FROM api_logs GROUP BY 1;
INSERT INTO system_minutes
    SELECT CAST(strftime('%s', created_at) AS INTEGER) / 60, min(id), max(id) FROM system_logs GROUP BY 1;
"""

# a recipient's identity, where it differs from the address as it was sent to: capitals, non-ASCII domains, and phone
# numbers in a form that only WhatsApp still uses
_IDENTITIES = """
ALTER TABLE message_logs ADD COLUMN recipient_identity TEXT;
UPDATE message_logs SET recipient_identity = other_identity(coalesce(recipient_email, recipient_phone))
    WHERE recipient_email <> lower(recipient_email) OR recipient_email GLOB '*[^ -~]*' OR recipient_phone GLOB '5[25]*';
CREATE INDEX idx_recipient_identity ON message_logs(recipient_identity) WHERE recipient_identity IS NOT NULL;
"""

# the files of dead letters, each once per blast
_FILES = """
CREATE TABLE letter_files (
    blast_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    content BLOB NOT NULL,
    kept_at_ms INTEGER NOT NULL,
    PRIMARY KEY (blast_id, digest)
);
CREATE INDEX idx_letter_files_kept ON letter_files(kept_at_ms);
"""

# what providers reported after they accepted a message. `delivery` is the kind with the highest rank so far. Early
# receipts wait for the row of their message; `ref` is how it will be found. The outbox has changes of suppressions that
# Redis does not have yet: a packed suppression, or an empty one where an opt-out is lifted
_RECEIPTS = """
ALTER TABLE message_logs ADD COLUMN delivery TEXT;
ALTER TABLE message_logs ADD COLUMN delivery_at TEXT;
CREATE TABLE message_receipts (
    job_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    run INTEGER NOT NULL,
    severity TEXT NOT NULL,
    code TEXT NOT NULL,
    words TEXT NOT NULL,
    trusted INTEGER NOT NULL,
    evidence TEXT NOT NULL,
    PRIMARY KEY (job_id, kind, at_ms, source)
) WITHOUT ROWID;
CREATE TABLE early_receipts (
    id INTEGER PRIMARY KEY,
    channel TEXT NOT NULL,
    ref TEXT NOT NULL,
    kind TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    receipt BLOB NOT NULL,
    kept_at_ms INTEGER NOT NULL,
    UNIQUE (channel, ref, kind, at_ms, source)
);
CREATE TABLE early_counts (
    channel TEXT NOT NULL,
    state TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (channel, state)
) WITHOUT ROWID;
CREATE TABLE suppression_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL,
    address TEXT NOT NULL,
    suppression BLOB NOT NULL,
    at_ms INTEGER NOT NULL
);
CREATE TABLE delivery_counts (
    channel TEXT NOT NULL,
    delivery TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (channel, delivery)
) WITHOUT ROWID;
CREATE TABLE blast_deliveries (
    blast_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    delivery TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (blast_id, channel, delivery)
) WITHOUT ROWID;
CREATE TABLE receipt_totals (
    channel TEXT NOT NULL,
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (channel, source, kind)
) WITHOUT ROWID;
CREATE TABLE receipt_minutes (
    minute INTEGER NOT NULL,
    channel TEXT NOT NULL,
    kind TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (minute, channel, kind)
) WITHOUT ROWID;
"""

# entry N migrates the schema from version N to N + 1; never edit a released one
MIGRATIONS: Sequence[str] = (
    _LOGS + _STORIES + _APPLIED + _TALLIES, _MINUTES, _IDENTITIES, _FILES, _RECEIPTS, WEBHOOKS,
)  # fmt: skip


class NewerSchemaError(KurirError):
    """A newer version of Kurir wrote the database."""


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Migrate the schema to the newest version, each step in its own transaction; return the version.

    Raises NewerSchemaError if the file's schema is newer than this code.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(migrations):
        raise NewerSchemaError(f"its schema has version {version}; this Kurir supports up to version {len(migrations)}")
    database = Database(connection, execute_plugins=False, recursive_triggers=False)
    database.register_function(other_identity, deterministic=True)
    for number, script in enumerate(migrations[version:], start=version + 1):
        with database.atomic():
            database.executescript(script)
            database.execute(f"PRAGMA user_version = {number}")
    return len(migrations)


def tables(connection: sqlite3.Connection) -> list[str]:
    """Return the names of all tables."""
    return Database(connection, execute_plugins=False).table_names()
