"""The outbox of suppressions: carries the changes that follow from receipts to Redis.

A change is added in the transaction that applies its receipt, and deleted once Redis has it. Both calls are safe to
repeat, so a kill in between has no effect; Redis may be away for any length of time. Of several loggers only the one
that leads applies changes, because a change that is repeated after a later one of the same address would undo that.
"""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import NamedTuple

import orjson

from services.logger.database import Database
from services.logger.store import LOOK_AGAIN_S, QueryTooSlowError, StorageError, Store
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop, drain_on_wake
from shared.logs import get_logger
from shared.queue.suppressions import Suppressions
from shared.suppressions import unpack_suppression

log = get_logger()
_RETRY_S = 2.0
# a few hundred a call, since a call blocks Redis
_MOST = 200
NEXT = "SELECT id, channel, address, suppression, at_ms FROM suppression_outbox WHERE id > 0 ORDER BY id LIMIT ?"
_DONE = "DELETE FROM suppression_outbox WHERE id IN (SELECT value FROM json_each(?))"


class Change(NamedTuple):
    """A suppression to store, packed, or an opt-out of before `at_ms` to lift if it is empty."""

    entry_id: int
    channel: str
    address: str
    suppression: bytes
    at_ms: int


class SuppressionOutbox:
    """Applies the changes in the order of their receipts' arrival."""

    def __init__(self, store: Store, suppressions: Suppressions) -> None:
        self._store = store
        self._suppressions = suppressions
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Apply changes now: a transaction has added some."""
        self._wake.set()

    async def run(self, stop: Stop) -> None:
        """Apply the changes until stopped: at the start, after `wake`, and again after failures."""
        # with several loggers, another one may have added changes
        again_s = LOOK_AGAIN_S if self._store.shared else None
        await drain_on_wake(self.drain, self._wake, stop, _RETRY_S, again_s)

    async def drain(self) -> bool:
        """Apply all waiting changes; return False if Redis or the database prevented it."""
        try:
            while changes := await self._store.read(_next):
                for (channel, lifts), some in groupby(changes, key=lambda one: (one.channel, not one.suppression)):
                    if not self._store.leads:
                        # another logger may have applied these, and later ones
                        return False
                    await self._apply(channel, list(some), lifts=lifts)
        except (QueueUnavailableError, StorageError, QueryTooSlowError) as error:
            log.warning("suppressions from receipts wait to be stored", reason=str(error))
            return False
        return True

    async def _apply(self, channel: str, changes: list[Change], *, lifts: bool) -> None:
        if lifts:
            for one in changes:
                await self._suppressions.opt_in(channel, one.address, one.at_ms)
        else:
            pairs = [(one.address, unpack_suppression(one.suppression)) for one in changes]
            await self._suppressions.add_all(channel, pairs)
        ids = orjson.dumps([one.entry_id for one in changes]).decode()
        await self._store.write(lambda connection: connection.execute(_DONE, (ids,)).rowcount)
        log.info("suppressions changed after receipts", channel=channel, changes=len(changes), lifted=lifts)


def _next(connection: Database) -> list[Change]:
    return [Change._make(row) for row in connection.execute(NEXT, (_MOST,))]
