"""PostgreSQL's statements on the path of every event; `{day}` is the partition's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.logger import merging
from services.logger.postgres.days import DAY_BITS

_NUMBERS = frozenset({"attempts", "run", "duration_ms", "state_rank"})
UPDATED: Mapping[str, str] = {name: "bigint" if name in _NUMBERS else "text" for name in merging.UPDATED}
COMPLETED: Mapping[str, str] = {
    "recipient_email": "text", "recipient_phone": "text", "recipient_name": "text", "template_id": "text",
    "template_name": "text", "reference": "text", "created_at": "text", "recipient_identity": "text",
}  # fmt: skip
LETTER: Mapping[str, str] = {
    "job_id": "text", "blast_id": "text", "channel": "text", "run": "bigint", "error_class": "text", "job": "bytea",
    "failed_at_ms": "bigint",
}  # fmt: skip
RECEIPT = ("job_id", "kind", "at_ms", "source", "run", "severity", "code", "words", "trusted", "evidence")
REQUEST = (
    "endpoint", "method", "ip_address", "request_body", "response_status", "response_time_ms", "error_message",
    "created_at", "request_id", "api_key",
)  # fmt: skip
SYSTEM = ("level", "message", "metadata", "created_at", "service")


def _given(columns: Mapping[str, str]) -> str:
    """Return the arrays of the columns' values as a table `given`."""
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(columns.values(), start=1))
    return f"unnest({arrays}) AS given ({', '.join(columns)})"


def _adding(table: str, **keys: str) -> str:
    columns = {**keys, "n": "bigint"}
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(columns)} FROM {_given(columns)}"  # noqa: S608 -- own names
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET n = {table}.n + excluded.n"
    )


# all of these consist of this module's own names
PRODUCERS = "SELECT name, id FROM event_producers WHERE name = ANY($1::text[])"
NEW_PRODUCERS = "INSERT INTO event_producers (name) SELECT unnest($1::text[]) RETURNING name, id"
APPLIED = """
INSERT INTO applied_events (producer, sequence, applied_at)
SELECT producer, sequence, $3::bigint FROM unnest($1::bigint[], $2::bigint[]) AS given (producer, sequence)
ON CONFLICT DO NOTHING RETURNING producer, sequence
"""
KNOWN = """
SELECT id, job_id, status, state_rank, run, attempts, created_at, template_name FROM message_logs_{day}
WHERE job_id = ANY($1::text[])
"""
HAS_DAY = "SELECT 1 FROM message_days WHERE day = $1"
RESERVE = "UPDATE message_days SET next_id = next_id + $2 WHERE day = $1 RETURNING next_id - $2"
_SET = ", ".join(f"{name} = given.{name}" for name in UPDATED if name != "subject")
GIVEN_UPDATES = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS given_updates ({", ".join(f"{name} {kind}" for name, kind in UPDATED.items())},
    id bigint) ON COMMIT DELETE ROWS;
DELETE FROM given_updates
"""  # noqa: S608
"""Makes the table of a session that updates are copied into, and empties it for the transaction's next ones."""
_UPDATE = (
    f"UPDATE message_logs_{{{{day}}}} AS m SET {_SET}, subject = coalesce(given.subject, m.subject)"  # noqa: S608
    " FROM {given} WHERE m.id = given.id"
)
UPDATE = _UPDATE.format(given=_given({**UPDATED, "id": "bigint"}))
UPDATE_MANY = _UPDATE.format(given="given_updates AS given") + f" AND given.id >> {DAY_BITS} = {{day}}"
END_TOGETHER = """
UPDATE message_logs_{day} SET status = $1::text, error_message = $2::text, message_id = NULL, updated_at = $3::text,
    error_class = $4::text, error_code = '', response = NULL, duration_ms = 0, next_at = NULL, state_rank = $5::bigint
WHERE job_id = ANY($6::text[]) AND status = $7::text AND run = $8::bigint AND state_rank < $5::bigint
    AND template_name <> '' AND created_at <= $3::text
"""
COMPLETE = f"""
UPDATE message_logs_{{day}} AS m SET recipient_email = coalesce(m.recipient_email, given.recipient_email),
    recipient_phone = coalesce(m.recipient_phone, given.recipient_phone),
    recipient_name = CASE m.recipient_name WHEN '' THEN given.recipient_name ELSE m.recipient_name END,
    template_id = CASE m.template_id WHEN '' THEN given.template_id ELSE m.template_id END,
    template_name = coalesce(m.template_name, given.template_name),
    reference = coalesce(m.reference, given.reference), created_at = least(m.created_at, given.created_at),
    recipient_identity = coalesce(m.recipient_identity, given.recipient_identity)
FROM {_given({**COMPLETED, "id": "bigint"})} WHERE m.id = given.id
"""  # noqa: S608
ATTEMPTS = f"""
UPDATE message_logs_{{day}} AS m SET attempts = given.attempts
FROM {_given({"attempts": "bigint", "id": "bigint"})} WHERE m.id = given.id
"""  # noqa: S608
SETTLED = "DELETE FROM dead_letters WHERE job_id = ANY($1::text[])"
LETTERS = f"""
INSERT INTO dead_letters ({", ".join(LETTER)}) SELECT {", ".join(LETTER)} FROM {_given(LETTER)}
ON CONFLICT (job_id) DO UPDATE SET run = excluded.run, error_class = excluded.error_class, job = excluded.job,
    failed_at_ms = excluded.failed_at_ms
WHERE excluded.run >= dead_letters.run
"""  # noqa: S608
_MINUTE = {"minute": "bigint", "channel": "text"}
_MINUTES = dict.fromkeys(("queued", "sent", "failed", "retried", "other", "duration_ms"), "bigint")
MINUTES = f"""
INSERT INTO message_minutes ({", ".join({**_MINUTE, **_MINUTES})}) SELECT * FROM {_given({**_MINUTE, **_MINUTES})}
ON CONFLICT (minute, channel) DO UPDATE SET
    {", ".join(f"{name} = message_minutes.{name} + excluded.{name}" for name in _MINUTES)}
"""  # noqa: S608
_OF_ATTEMPT: Mapping[str, str] = {
    "job_id": "text", "run": "bigint", "attempt": "bigint", "deferral": "bigint", "outcome": "text",
    "error_class": "text", "error_code": "text", "error_message": "text", "duration_ms": "bigint", "at_ms": "bigint",
    "next_at_ms": "bigint",
}  # fmt: skip
ATTEMPT = f"""
INSERT INTO message_attempts_{{day}} AS m ({", ".join(_OF_ATTEMPT)}, day)
SELECT {", ".join(_OF_ATTEMPT)}, $12::bigint FROM {_given(_OF_ATTEMPT)}
ON CONFLICT (day, job_id, run, attempt, deferral) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in list(_OF_ATTEMPT)[4:])}
WHERE (excluded.at_ms, excluded.outcome) > (m.at_ms, m.outcome)
"""  # noqa: S608
DELIVERY = f"""
UPDATE message_logs_{{day}} AS m SET delivery = given.delivery, delivery_at = given.delivery_at
FROM {_given({"delivery": "text", "delivery_at": "text", "id": "bigint"})} WHERE m.id = given.id
"""  # noqa: S608
DROP = "DELETE FROM message_logs_{day} WHERE id = ANY($1::bigint[])"
DROP_OF_JOBS: Sequence[str] = (
    "DELETE FROM message_attempts_{day} WHERE job_id = ANY($1::text[])",
    "DELETE FROM dead_letters WHERE job_id = ANY($1::text[])",
    "DELETE FROM message_receipts_{day} WHERE job_id = ANY($1::text[])",
)
IDS = "SELECT nextval(pg_get_serial_sequence($1::text, 'id')) FROM generate_series(1, $2::bigint)"
_API = dict.fromkeys(("minute", "requests", "client_errors", "server_errors", "time_ms", "slowest_ms"), "bigint")
API_MINUTES = f"""
INSERT INTO api_minutes ({", ".join(_API)}) SELECT * FROM {_given(_API)}
ON CONFLICT (minute) DO UPDATE SET
    {", ".join(f"{name} = api_minutes.{name} + excluded.{name}" for name in list(_API)[1:5])},
    slowest_ms = greatest(api_minutes.slowest_ms, excluded.slowest_ms)
"""  # noqa: S608
WIDEN = f"""
INSERT INTO {{table}} (minute, first_id, last_id)
SELECT * FROM {_given({"minute": "bigint", "first_id": "bigint", "last_id": "bigint"})}
ON CONFLICT (minute) DO UPDATE SET first_id = least({{table}}.first_id, excluded.first_id),
    last_id = greatest({{table}}.last_id, excluded.last_id)
"""  # noqa: S608
ADD_DAYS = _adding("message_day_counts", day="bigint", channel="text", status="text")
ADD_DELIVERY_DAYS = _adding("delivery_day_counts", day="bigint", channel="text", delivery="text")
ADD_TOTALS = _adding("message_totals", channel="text", status="text")
ADD_BLASTS = _adding("blast_counts", blast_id="text", channel="text", status="text")
ADD_OF_BLASTS = _adding("blast_deliveries", blast_id="text", channel="text", delivery="text")
ADD_ERRORS = _adding("error_days", day="bigint", channel="text", error_class="text")
