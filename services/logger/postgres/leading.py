"""The lead: of several loggers, one feeds webhooks, carries outboxes to Redis and deletes old rows.

It holds an advisory lock on a connection of its own, which the server releases when that connection ends. A logger
that stood still, or lost its connection, learns of it late. So the lead is a lease: it counts only for LEASE_S after
the server last confirmed it, and the next logger waits for SETTLE_S, unless the one before gave the lead up.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from services.logger.database import DatabaseError
from services.logger.postgres.connecting import PostgresDatabase
from shared.logs import get_logger

log = get_logger()
LEADER_KEY = 0x6B75_7269_7203
"""The advisory lock that the leading logger holds."""
LEASE_S = 3.0
"""How long the lead counts after the server confirmed it."""
SETTLE_S = 10.0
"""How long the next logger waits: the lease, and the longest call to Redis that may have begun within it."""
ASK_EVERY_S = 1.0
_EARLIER = "SELECT holder FROM lead"
_TAKE = "UPDATE lead SET holder = $1"
_GIVE_UP = "UPDATE lead SET holder = '' WHERE holder = $1"
# it counts while the machine is suspended, where there is one
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Leading:
    """Holds the lead on a connection that `connect` makes, on a thread of its own; `scale` shortens times in tests."""

    def __init__(self, connect: Callable[[], PostgresDatabase], scale: float = 1.0) -> None:
        self._connect = connect
        self._ask_every_s, self._lease_s, self._settle_s = ASK_EVERY_S * scale, LEASE_S * scale, SETTLE_S * scale
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="db-leader")
        self._database: PostgresDatabase | None = None
        self._name = secrets.token_hex(8)
        self._earlier = ""
        self._closed = self._entered = False
        self._confirmed_s = float("-inf")

    @property
    def holds(self) -> bool:
        """Whether the server confirmed the lead within the lease."""
        return self._entered and _now_s() - self._confirmed_s < self._lease_s

    async def lead(self) -> None:
        """Return once this logger leads; it asks once a second."""
        while not await self._take():  # noqa: ASYNC110 -- the server sets no event
            await asyncio.sleep(self._ask_every_s)
        log.info("this logger leads: it feeds webhooks, carries outboxes and deletes old rows")

    async def lost(self) -> None:
        """Return once the connection is gone."""
        while await self._in_thread(self._holds):  # noqa: ASYNC110 -- the server sets no event
            await asyncio.sleep(self._ask_every_s)
        log.warning("this logger lost the lead: its connection to the database is gone")

    async def close(self) -> None:
        """Give up the lead, once."""
        if not self._closed:
            self._closed = True
            await self._in_thread(self._give_up)
            self._thread.shutdown()

    async def _take(self) -> bool:
        """Try to take the lead; return whether it is taken and nobody can act on an earlier one."""
        if not await self._in_thread(self._try):
            return False
        settled_s = _now_s() + (self._settle_s if self._earlier not in {"", self._name} else 0.0)
        while (left_s := settled_s - _now_s()) > 0:
            await asyncio.sleep(min(left_s, self._ask_every_s))
            if not await self._in_thread(self._holds):
                return False
        # not before: the next one after one that only waited must wait for the earlier leader, too
        return await self._in_thread(self._enter)

    async def _in_thread(self, work: Callable[[], bool]) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _try(self) -> bool:
        began_s = _now_s()
        try:
            if self._database is None:
                self._database = self._connect()
            if not self._database.run("SELECT pg_try_advisory_lock($1)", LEADER_KEY).fetchone()[0]:
                return False
            self._earlier = self._database.run(_EARLIER).fetchone()[0]
        except DatabaseError as error:
            log.debug("asking for the lead failed", reason=str(error))
            return self._drop()
        self._confirmed_s = began_s
        return True

    def _enter(self) -> bool:
        """Write down who leads from now on."""
        try:
            if self._database is None:
                return False
            self._database.run(_TAKE, self._name)
        except DatabaseError as error:
            log.debug("taking the lead failed", reason=str(error))
            return self._drop()
        self._entered = True
        return True

    def _holds(self) -> bool:
        began_s = _now_s()
        try:
            if self._database is None or self._database.run("SELECT true").fetchone() != (True,):
                return False
        except DatabaseError:
            return self._drop()
        self._confirmed_s = began_s
        return True

    def _give_up(self) -> bool:
        """Let the next logger lead at once; what this one did with the lead has ended."""
        try:
            if self._database is not None:
                self._database.run(_GIVE_UP, self._name)
        except DatabaseError as error:
            log.debug("giving up the lead failed", reason=str(error))
        return self._drop()

    def _drop(self) -> bool:
        self._confirmed_s, self._entered = float("-inf"), False
        if self._database is not None:
            self._database.close()
            self._database = None
        return False


def _now_s() -> float:
    return time.clock_gettime(_CLOCK)
