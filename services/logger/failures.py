"""Failures of a blast by reason: how many of its messages failed with each error, and an example of each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from services.logger.database import Database
from services.logger.redelivery import UnknownBlastError
from shared.channels import CHANNELS

MOST_COUNTED = 100_000
COUNTS = """
SELECT error_class, coalesce(error_code, ''), count(*), max(id) FROM (
    SELECT id, error_class, error_code FROM message_logs INDEXED BY idx_blast
    WHERE blast_id = ? AND channel = ? AND status = 'failed' ORDER BY id DESC LIMIT ?
) AS latest GROUP BY 1, 2
"""
_EXAMPLES = "SELECT id, error_message FROM message_logs WHERE id IN (SELECT value FROM json_each(?))"
_KNOWN = "SELECT 1 FROM blasts WHERE blast_id = ?"


def failures_of(connection: Database, blast_id: str) -> dict[str, Any]:
    """Return the reasons with the most failed messages first; raises UnknownBlastError.

    At most the latest 100,000 failed messages of a channel are counted; `complete` is false if there are more.
    """
    if connection.execute(_KNOWN, (blast_id,)).fetchone() is None:
        raise UnknownBlastError("no blast has this id")
    found: list[dict[str, Any]] = []
    counted: Counter[str] = Counter()
    for channel in CHANNELS:
        rows = connection.execute(COUNTS, (blast_id, channel, MOST_COUNTED)).fetchall()
        examples = dict(connection.execute(_EXAMPLES, (orjson.dumps([row[3] for row in rows]).decode(),)))
        for error_class, code, n, latest in rows:
            counted[channel] += n
            found.append(
                {
                    "channel": channel,
                    "errorClass": error_class or "",
                    "errorCode": code,
                    "count": n,
                    "example": examples.get(latest) or "",
                }
            )
    complete = all(n < MOST_COUNTED for n in counted.values())
    return {"failures": sorted(found, key=lambda one: -one["count"]), "complete": complete}
