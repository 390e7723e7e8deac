"""Fill a data folder with a log of many messages, to test queries, retention and backups at that size.

    python scripts/make_log_rows.py --data-dir /tmp/large [--rows 10000000] [--days 30]

The rows are spread evenly over the last days, in blasts of 10,000 and two million recipients: 97.5 % are sent, the rest
failed, expired, suppressed or cancelled. Do not run a logger on the folder at the same time. Ten million rows take some
minutes and about ten gigabytes.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

import msgspec

from services.logger.blast_rows import write_blasts
from services.logger.later_indexes import LATER_INDEXES, build_index
from services.logger.schema import migrate
from shared.blasts import Blast, pack_blast
from shared.events import BlastAccepted
from shared.jobs import Job, Recipient, pack_job
from shared.templates import Template

_BLAST = 10_000
_PEOPLE = 2_000_003
_DAY_MS = 86_400_000
_EPOCH_MS, _DIGITS = 1_577_836_800_000, "0123456789abcdefghjkmnpqrstvwxyz"
_TEMPLATES = 20
# the first two as in the logger's file; the rest only for speed, since these rows may be lost in a power cut
_PRAGMAS = (
    "auto_vacuum = INCREMENTAL",
    "journal_mode = WAL",
    "synchronous = OFF",
    "cache_size = -500000",
    "temp_store = MEMORY",
)

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :last)"
_MADE = """
, made AS (
    SELECT n, n / {blast} AS b, n % {blast} AS i, (n * 2654435761) % {people} AS person,
        CASE WHEN n % 10 < 7 THEN 'email' ELSE 'whatsapp' END AS channel,
        CASE WHEN n % 1000 < 975 THEN 'sent' WHEN n % 1000 < 990 THEN 'failed' WHEN n % 1000 < 994 THEN 'expired'
            WHEN n % 1000 < 998 THEN 'suppressed' ELSE 'cancelled' END AS status,
        CASE WHEN n % 1000 >= 975 OR n % 7 = 0 THEN NULL WHEN n % 10 >= 7 THEN
            CASE WHEN n % 29 = 0 THEN 'undelivered' WHEN n % 3 = 0 THEN 'delivered' ELSE 'read' END
            WHEN n % 41 = 0 THEN 'bounced' WHEN n % 1009 = 0 THEN 'complained' ELSE 'delivered' END AS delivery,
        strftime('%Y-%m-%dT%H:%M:%fZ', (:start_ms + n * :step_ms) / 1000.0, 'unixepoch') AS created,
        strftime('%Y-%m-%dT%H:%M:%fZ', (:start_ms + n * :step_ms + 1500) / 1000.0, 'unixepoch') AS updated
    FROM numbers
)
"""
_MESSAGES = """
INSERT INTO message_logs (job_id, channel, recipient_email, recipient_phone, recipient_name, template_id,
    template_name, subject, status, error_message, message_id, attempts, created_at, updated_at, blast_id, reference,
    run, error_class, error_code, response, duration_ms, state_rank, delivery, delivery_at)
SELECT blast_id(b) || ':' || i || ':' || channel, channel,
    CASE channel WHEN 'email' THEN 'user' || person || '@example.com' END,
    CASE channel WHEN 'whatsapp' THEN '628' || (1000000000 + person) END,
    'User ' || person, 'template' || (b % {templates}), 'Template ' || (b % {templates}),
    CASE channel WHEN 'email' THEN 'Your invoice INV-' || n END, status,
    CASE status WHEN 'sent' THEN NULL WHEN 'failed' THEN '550 5.1.1 no such user' ELSE status END,
    CASE WHEN status <> 'sent' THEN NULL WHEN channel = 'whatsapp' THEN 'wamid.HBgNNjI4' || printf('%044d', n)
        ELSE '<' || blast_id(b) || '.' || i || '.' || channel || '.1@example.com>' END,
    1 + (n % 50 = 0), created, updated, blast_id(b), CASE WHEN n % 4 = 0 THEN 'order-' || (n / 4) END, 1,
    CASE status WHEN 'sent' THEN NULL WHEN 'failed' THEN CASE n % 3 WHEN 0 THEN 'uncertain' WHEN 1 THEN 'transient'
        ELSE 'permanent' END ELSE status END,
    CASE status WHEN 'failed' THEN '550 5.1.1' END, CASE status WHEN 'sent' THEN '250 2.0.0 Ok: queued as ' || n END,
    20 + n % 80, (1 << 52) | (2 << 50), delivery, CASE WHEN delivery IS NOT NULL THEN updated END
FROM made ORDER BY n
"""
_RECEIPTS = """
INSERT INTO message_receipts SELECT job_id, delivery, CAST(strftime('%s', delivery_at) AS INTEGER) * 1000,
    CASE channel WHEN 'email' THEN 'ses' ELSE 'meta' END, 1, CASE delivery WHEN 'bounced' THEN 'soft' ELSE '' END, '',
    '', 1, ''
FROM message_logs WHERE delivery IS NOT NULL
"""
_ATTEMPTS = """
INSERT INTO message_attempts SELECT job_id, 1, 1, 0, CASE WHEN status = 'failed' THEN 'failed' ELSE 'retrying' END,
    'transient', '451 4.3.0', '451 4.3.0 temporary failure', 30,
    CAST(strftime('%s', created_at) AS INTEGER) * 1000, 0
FROM message_logs WHERE status = 'failed' OR attempts > 1
"""
_LETTERS = """
INSERT INTO dead_letters SELECT job_id, blast_id, channel, 1, error_class, :job,
    CAST(strftime('%s', created_at) AS INTEGER) * 1000
FROM message_logs WHERE status = 'failed'
"""
_TALLIES = (
    "INSERT INTO message_counts SELECT channel, status, count(*) FROM message_logs GROUP BY channel, status",
    "INSERT INTO message_totals SELECT * FROM message_counts",
    (
        "INSERT INTO delivery_counts SELECT channel, delivery, count(*) FROM message_logs"
        " WHERE delivery IS NOT NULL GROUP BY 1, 2"
    ),
    (
        "INSERT INTO blast_deliveries SELECT blast_id, channel, delivery, count(*) FROM message_logs"
        " WHERE delivery IS NOT NULL GROUP BY 1, 2, 3"
    ),
    (
        "INSERT INTO receipt_totals SELECT channel, CASE channel WHEN 'email' THEN 'ses' ELSE 'meta' END, delivery, n"
        " FROM delivery_counts"
    ),
    "INSERT INTO blast_counts SELECT blast_id, channel, status, count(*) FROM message_logs GROUP BY 1, 2, 3",
    (
        "INSERT INTO created_minutes SELECT CAST(strftime('%s', created_at) AS INTEGER) / 60, min(id), max(id)"
        " FROM message_logs GROUP BY 1"
    ),
    (
        "INSERT INTO message_minutes (minute, channel, queued, sent, failed, duration_ms)"
        " SELECT CAST(strftime('%s', created_at) AS INTEGER) / 60, channel, count(*), sum(status = 'sent'),"
        " sum(status = 'failed'), sum(duration_ms) FROM message_logs GROUP BY 1, 2"
    ),
    (
        "INSERT INTO error_days"
        " SELECT CAST(strftime('%s', created_at) AS INTEGER) / 86400, channel, error_class, count(*)"
        " FROM message_logs WHERE error_class IS NOT NULL AND (status = 'failed' OR attempts > 1) GROUP BY 1, 2, 3"
    ),
    (
        "INSERT INTO request_minutes SELECT CAST(strftime('%s', created_at) AS INTEGER) / 60, min(id), max(id)"
        " FROM api_logs GROUP BY 1"
    ),
    (
        "INSERT INTO system_minutes SELECT CAST(strftime('%s', created_at) AS INTEGER) / 60, min(id), max(id)"
        " FROM system_logs GROUP BY 1"
    ),
)
_OTHERS = (
    (
        "INSERT INTO api_logs"
        " (endpoint, method, ip_address, request_body, response_status, response_time_ms, created_at)"
        " SELECT CASE n % 5 WHEN 0 THEN '/api/messages/blast' ELSE '/api/blasts/blast' || (n % 1000) END,"
        " CASE n % 5 WHEN 0 THEN 'POST' ELSE 'GET' END, '10.0.0.1', '', CASE n % 100 WHEN 0 THEN 422 ELSE 200 END,"
        " n % 50, created FROM made ORDER BY n"
    ),
    (
        "INSERT INTO system_logs (level, message, metadata, created_at, service)"
        " SELECT CASE WHEN n % 10 = 0 THEN 'error' ELSE 'warning' END, 'the provider is away', '{{}}', created,"
        " CASE n % 3 WHEN 0 THEN 'ingest' ELSE 'email_sender' END FROM made ORDER BY n"
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the rows that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    wanted = parser.parse_args(arguments)
    path: Path = wanted.data_dir / "logs.db"
    if path.exists():
        sys.stderr.write(f"{path} exists already\n")
        return 1
    wanted.data_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        migrate(connection)
        for name in LATER_INDEXES:
            build_index(connection, name)
        _fill(connection, wanted.rows, wanted.days)
    sys.stdout.write(f"{wanted.rows} rows, {path.stat().st_size / 1e9:.1f} GB, {time.monotonic() - began:.0f} s\n")
    return 0


def _fill(connection: sqlite3.Connection, rows: int, days: int) -> None:
    """Insert without indexes, then build them: many times faster than inserting with indexes."""
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
        " AND tbl_name IN ('message_logs', 'api_logs', 'system_logs')"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    span = {"start_ms": int(time.time() * 1000) - days * _DAY_MS, "step_ms": days * _DAY_MS / rows}
    connection.create_function("blast_id", 1, cache(lambda number: _blast_id(number, span)), deterministic=True)
    for first in range(0, rows, 500_000):
        _insert(connection, _MESSAGES, first, min(first + 500_000, rows), span)
    for statement, share in zip(_OTHERS, (10, 100), strict=True):
        few = max(1, rows // share)
        _insert(connection, statement, 0, few, {**span, "step_ms": span["step_ms"] * share})
    for _, definition in indexes:
        connection.execute(definition)
    connection.execute("BEGIN")
    connection.execute(_ATTEMPTS)
    connection.execute(_RECEIPTS)
    letter = pack_job(Job("blast0", 0, "email", "normal", Recipient("user@example.com", "User"), 0))
    connection.execute(_LETTERS, {"job": letter})
    for statement in _TALLIES:
        connection.execute(statement)
    _make_blasts(connection, rows, span)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _insert(
    connection: sqlite3.Connection, statement: str, first: int, last: int, span: dict[str, int | float]
) -> None:
    query = (_NUMBERS + _MADE + statement).format(blast=_BLAST, people=_PEOPLE, templates=_TEMPLATES)
    connection.execute("BEGIN")
    connection.execute(query, {**span, "first": first, "last": last})
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _blast_id(number: int, span: dict[str, int | float]) -> str:
    """Return a blast's id as ingest makes them: its time, then its number."""
    created = int(span["start_ms"] + number * _BLAST * span["step_ms"])
    return _base32(created - _EPOCH_MS) + _base32(number)


def _base32(number: int) -> str:
    return "".join(_DIGITS[(number >> (5 * place)) & 31] for place in reversed(range(8)))


def _make_blasts(connection: sqlite3.Connection, rows: int, span: dict[str, int | float]) -> None:
    """Write the blasts of the messages, all of them completed."""
    template = Template(id="", name="", channels=["email", "whatsapp"], subject="Your invoice", text="x" * 1500)
    for number in range((rows + _BLAST - 1) // _BLAST):
        kind = number % _TEMPLATES
        created = int(span["start_ms"] + number * _BLAST * span["step_ms"])
        blast = Blast(
            blast_id=_blast_id(number, span),
            template=msgspec.structs.replace(template, id=f"template{kind}", name=f"Template {kind}"),
            channels=["email", "whatsapp"],
            lane="bulk",
            created_at_ms=created,
            totals={"email": _BLAST * 7 // 10, "whatsapp": _BLAST * 3 // 10},
            total_recipients=_BLAST,
            reference=f"campaign-{number}",
        )
        write_blasts(connection, [BlastAccepted(created, blast.blast_id, pack_blast(blast))])
    connection.execute("UPDATE blasts SET state = 'completed_with_failures', ended_at_ms = created_at_ms + 60000")


if __name__ == "__main__":
    sys.exit(main())
