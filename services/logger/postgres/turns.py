"""Turns: the advisory lock that a writing transaction holds, and what becomes of one whose logger stands still.

The server ends a transaction that is idle. It does not end one in the middle of a COPY whose rows do not come: its
session counts as active. So who waits for a turn too long ends the session that holds it, if that waits for its logger.
"""

from __future__ import annotations

import asyncpg

from services.logger.database import DatabaseError
from services.logger.postgres.connecting import PostgresDatabase
from shared.logs import get_logger

log = get_logger()
WRITER_KEY = 0x6B75_7269_7202
"""The advisory lock that a writing transaction holds."""
TURN_S = 15.0
"""How long a transaction waits for its turn: longer than any that does not stand still, and than the server's limit."""
IDLE_S = 10.0
"""How long a session that holds the turn may wait for its logger; the server's limit on idle transactions."""
_TAKE = "SELECT pg_advisory_xact_lock($1)"
# the halves of the key are apart there; `state_change` is when the statement began, or ended
_END_STANDING = f"""
SELECT a.pid, pg_terminate_backend(a.pid) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.classid = {WRITER_KEY >> 32} AND l.objid = {WRITER_KEY & 0xFFFF_FFFF}
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND a.wait_event_type = 'Client' AND a.state_change < clock_timestamp() - make_interval(secs => $1)
"""  # noqa: S608 -- a constant of this module


def begin_turn(database: PostgresDatabase, scale: float = 1.0) -> None:
    """Begin a transaction once it is this logger's turn; `scale` multiplies the times, for tests.

    Raises DatabaseError if the turn does not come, after it ended the session of a logger that stands still.
    """
    for _ in range(2):
        if _begin(database, scale):
            return
        if ended := database.run(_END_STANDING, IDLE_S * scale).fetchall():
            log.warning("a logger stood still in its turn; its transaction is undone", pids=[row[0] for row in ended])
    raise DatabaseError("another session has held the turn to write for too long")


def _begin(database: PostgresDatabase, scale: float) -> bool:
    """Begin, and return whether the turn came in time."""
    database.script(f"BEGIN; SET LOCAL lock_timeout = {round(TURN_S * scale * 1000)}")
    try:
        database.run(_TAKE, WRITER_KEY)
    except DatabaseError as error:
        if not isinstance(error.__cause__, asyncpg.LockNotAvailableError):
            raise
        database.script("ROLLBACK")
        return False
    return True
