"""The sync: makes Redis know what the database knows about endpoints, after each change and again now and then.

It writes every endpoint that senders serve, pauses the partitions of disabled ones and resumes those that were enabled,
and deletes what is left of deleted ones, once no sender is alive there. All of it is safe to repeat, so a kill in
between has no effect, and a Redis that was emptied has everything again within seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from services.logger.database import Database
from services.logger.store import LOOK_AGAIN_S, QueryTooSlowError, StorageError, Store
from services.logger.webhooks.alignment import align_restored
from services.logger.webhooks.endpoints import DISABLED, Row, read_rows
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.webhook_queues import WebhookQueues

log = get_logger()
_RETRY_S, _AGAIN_S = 1.0, 10.0
_ROWS_A_TRANSACTION = 500

_SYNCED = """
UPDATE webhook_endpoints SET unsynced = false
WHERE number = ? AND config = ? AND secrets = ? AND enabled = ? AND NOT deleted AND unsynced
"""
_DROP = """
DELETE FROM webhook_deliveries
WHERE number = ?1 AND n IN (SELECT n FROM webhook_deliveries WHERE number = ?1 ORDER BY n LIMIT ?2)
"""
# a number that the database does not know: its file is another than before. As a deleted endpoint, what Redis has of it
# is deleted, and the number is never used again
_STRANGER = """
INSERT INTO webhook_endpoints (number, endpoint_id, config, secrets, enabled, created_at_ms, updated_at_ms,
    enabled_at_ms, cursor, deleted)
VALUES (?, ?, '{}', '[]', false, 0, 0, 0, 0, true)
ON CONFLICT DO NOTHING
"""
# PostgreSQL does not count a number that was given; SQLite has done so by then
_CONTINUE = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'webhook_endpoints'"
_MOVING = "moving"
_COPIED = (
    "config, secrets, enabled, disabled_reason, created_at_ms, updated_at_ms, enabled_at_ms, failing_since_ms,"
    " delivered_at_ms, cursor, next_n"
)
_COPY = f"""
INSERT INTO webhook_endpoints (endpoint_id, {_COPIED}, unsynced)
SELECT ?1, {_COPIED}, true FROM webhook_endpoints WHERE number = ?2 RETURNING number
"""  # noqa: S608 -- this module's own words


class EndpointSync:
    """Keeps Redis up to date.

    `follow` makes the recorder read the events of these endpoints, `on_change` wakes the feeder.
    """

    def __init__(
        self,
        store: Store,
        queues: WebhookQueues,
        follow: Callable[[Iterable[int]], None],
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._queues = queues
        self._follow = follow
        self._on_change = on_change
        self._wake = asyncio.Event()
        self._paused: set[int] = set()
        self._odd: set[int] = set()
        self.met = asyncio.Event()
        """Set once Redis has no endpoint that the database does not know."""

    def wake(self) -> None:
        """Write changes to Redis now."""
        self._wake.set()

    async def run(self, stop: Stop) -> None:
        """Write until stopped: at the start, after `wake`, and again now and then."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                waiting = asyncio.create_task(self._wake.wait())
                again_s = LOOK_AGAIN_S if self._store.shared else _AGAIN_S
                timeout_s = again_s if await self._try() else _RETRY_S
                await asyncio.wait({waiting, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            stopping.cancel()
            if self._store.shared:
                # the next leader's recorder reads their events, and deletes what is left of those that go
                self._follow(())

    async def _try(self) -> bool:
        try:
            return await self.sync()
        except (QueueUnavailableError, StorageError, QueryTooSlowError) as error:
            log.warning("changes of webhooks wait to be written to Redis", reason=str(error))
        except Exception:  # one endpoint's row must not end the service
            log.exception("writing webhooks to Redis failed; trying again")
        return False

    async def sync(self) -> bool:
        """Write everything once; return False if something is left to do soon.

        Raises QueueUnavailableError, StorageError and QueryTooSlowError.
        """
        await self._meet_strangers()
        rows = await self._store.read(read_rows)
        kept = [row for row in rows if not row.deleted]
        self._follow(row.number for row in kept)
        await self._queues.publish([row.endpoint() for row in kept])
        for row in kept:
            await self._open_or_close(row)
        await self._resume_forgotten([row for row in kept if row.enabled and not row.unsynced])
        changed = [row for row in kept if row.unsynced]
        if changed:
            await self._store.write(lambda connection: _mark_synced(connection, changed))
            self._on_change()
        gone = [await self._remove(row) for row in rows if row.deleted]
        return all(gone)

    async def _meet_strangers(self) -> None:
        """Once, before anything is written to Redis: note the endpoints there that the database never had."""
        if self.met.is_set():
            return
        found = await self._queues.published()
        await self._store.write(lambda connection: _note_strangers(connection, found))
        await self._meet_restored()
        self.met.set()

    async def _meet_restored(self) -> None:
        """Align what a database restored from a backup has open, before the recorder follows the endpoints.

        A report that waits in a stream, once applied, would hide that earlier ones were taken from it.
        """
        rows = [row for row in await self._store.read(read_rows) if not row.deleted]
        progress = await self._queues.progress([row.endpoint() for row in rows])
        pairs = [(row.number, redis) for row, redis in zip(rows, progress, strict=True)]
        if pairs and (restored := await self._store.write(lambda connection: align_restored(connection, pairs))):
            log.warning("the database was restored; open deliveries of webhooks are enqueued again", webhooks=restored)

    async def _open_or_close(self, row: Row) -> None:
        """Pause or resume an endpoint's partition; only the logger resumes it, after a change of its row."""
        if not row.enabled and (row.unsynced or row.number not in self._paused):
            await self._queues.pause(row.number, DISABLED)
            self._paused.add(row.number)
        elif row.enabled and row.unsynced:
            await self._queues.resume(row.number)
            self._paused.discard(row.number)

    async def _resume_forgotten(self, rows: Sequence[Row]) -> None:
        """Resume partitions whose endpoints are enabled: Redis lost the resumption, or the database is restored.

        The pause by a sender is left for one more round, in which the logger reads the event that reports it.
        """
        odd: set[int] = set()
        for row, pause in zip(rows, await self._queues.pauses([row.number for row in rows]), strict=True):
            if not pause.reason:
                continue
            if pause.reason == DISABLED or (row.number in self._odd and not pause.unread):
                log.warning("an enabled webhook was paused in Redis; resumed", webhook=row.endpoint_id)
                await self._queues.resume(row.number)
            else:
                odd.add(row.number)
        self._odd = odd

    async def _remove(self, row: Row) -> bool:
        """Delete what is left of a deleted endpoint; return False if Redis still had something of it."""
        if not await self._queues.delete(row.number):
            return False
        await self._queues.forget(row.endpoint_id)
        while await self._store.write(partial(_drop_deliveries, number=row.number)):
            pass
        log.info("webhook deleted", webhook=row.endpoint_id)
        return True


def _note_strangers(connection: Database, found: Mapping[int, str]) -> None:
    """Note endpoints in Redis, by number, that are not the database's; one of the database gets another number then."""
    own = read_rows(connection)
    strangers = [(number, f"unknown {number}") for number in found]
    connection.executemany(_STRANGER, strangers)
    connection.execute(_CONTINUE, (max(found, default=0),))
    for row in own:
        if not row.deleted and found.get(row.number, row.endpoint_id) != row.endpoint_id:
            _renumber(connection, row)
    connection.executemany(_STRANGER, strangers)


def _renumber(connection: Database, row: Row) -> None:
    """Give an endpoint a number that was never used, with all that it has."""
    connection.execute("UPDATE webhook_endpoints SET endpoint_id = ? WHERE number = ?", (_MOVING, row.number))
    (number,) = connection.execute(_COPY, (row.endpoint_id, row.number)).fetchone()
    values = (number, row.number)
    connection.execute("UPDATE webhook_deliveries SET number = ? WHERE number = ?", values)
    connection.execute("UPDATE webhook_replays SET number = ? WHERE number = ?", values)
    connection.execute("DELETE FROM webhook_endpoints WHERE number = ?", (row.number,))


def _mark_synced(connection: Database, rows: Iterable[Row]) -> None:
    """Clear the marks of rows that did not change again since they were read."""
    values = [(row.number, row.config_text, row.secrets_text, row.enabled) for row in rows]
    connection.executemany(_SYNCED, values)


def _drop_deliveries(connection: Database, number: int) -> bool:
    """Delete some deliveries of an endpoint, in the end the endpoint; return whether there is more to delete."""
    if connection.execute(_DROP, (number, _ROWS_A_TRANSACTION)).rowcount:
        return True
    connection.execute("DELETE FROM webhook_replays WHERE number = ?", (number,))
    connection.execute("DELETE FROM webhook_endpoints WHERE number = ?", (number,))
    return False
