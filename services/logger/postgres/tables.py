"""The tables as copies between the databases see them: which, in which order, and what is made instead of copied."""

from __future__ import annotations

from services.logger.postgres.connecting import PostgresDatabase

COPIED = (
    "blast_templates", "blasts", "blast_counts", "blast_deliveries", "message_totals", "message_minutes", "error_days",
    "api_logs", "api_minutes", "request_minutes", "system_logs", "system_minutes", "dead_letters", "letter_files",
    "retry_outbox", "early_receipts", "early_counts", "suppression_outbox", "receipt_totals", "receipt_minutes",
    "event_producers", "applied_events", "undecodable_events", "webhook_endpoints", "webhook_events",
    "webhook_deliveries", "webhook_replays", "webhook_totals",
)  # fmt: skip
"""Tables that have the same rows in both databases."""
BY_JOB = ("message_attempts", "message_receipts")
"""Tables that have a column more in PostgreSQL: the day of the job."""
MADE = ("message_logs", "message_counts", "delivery_counts", "created_minutes")
"""Tables that are made from the messages, whose ids have the day in PostgreSQL."""
IDENTITIES = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = current_schema() AND is_identity = 'YES'
"""
"""Finds the columns that number their rows themselves."""

_COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position
"""


def columns_of(database: PostgresDatabase, table: str) -> dict[str, str]:
    """Return the names and types of a table's columns, without the day of a job."""
    found = dict(database.run(_COLUMNS, table).fetchall())
    if table in BY_JOB:
        del found["day"]
    return found
