"""Abandoned blasts: those whose enqueueing stopped half-way and was never continued.

The client went away without repeating its request, or ingest died. After a quarter of an hour without progress such
a blast ends as `incomplete`. Its total becomes the number of enqueued jobs, so that its counts still add up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.ingest.http.gateway import Queue
from services.ingest.storage.running_blasts import OpenBlasts
from shared.clock import Clock
from shared.errors import KurirError
from shared.lifecycle import Stop
from shared.logs import get_logger

_LOOKS_A_PERIOD = 15
_FLUSH_EVERY_S = 1.0

log = get_logger()


@dataclass(frozen=True, slots=True)
class AbandonedWatch:
    """Ends blasts that made no progress for `after_s`; every ingest process runs one, and each step is idempotent."""

    queue: Queue
    open_blasts: OpenBlasts
    clock: Clock
    after_s: float

    async def run(self, stop: Stop) -> None:
        """Check periodically until stopped."""
        stopping = asyncio.create_task(stop.wait())
        every_s = self.after_s / _LOOKS_A_PERIOD
        next_check = self.clock.monotonic() + every_s
        try:
            while not stop.is_set():
                await asyncio.wait({stopping}, timeout=min(every_s, _FLUSH_EVERY_S))
                try:
                    await self.open_blasts.flush()
                    if self.clock.monotonic() >= next_check:
                        next_check = self.clock.monotonic() + every_s
                        await self.check()
                except KurirError as error:
                    log.debug("check for abandoned blasts failed", reason=str(error))
        finally:
            stopping.cancel()

    async def check(self) -> None:
        """End every abandoned blast; raises QueueUnavailableError."""
        before_ms = self.clock.now_ms() - int(self.after_s * 1000)
        for blast_id in await self.open_blasts.before(before_ms):
            if await self._settled(blast_id, before_ms):
                self.open_blasts.close(blast_id)
        await self.open_blasts.flush()

    async def _settled(self, blast_id: str, before_ms: int) -> bool:
        """End a blast if it was abandoned; return False while it is still being enqueued."""
        progress = await self.queue.blasts.progress(blast_id)
        if progress is None:
            return True
        channels = progress.channels.values()
        if all(one.enqueued >= one.total or one.cancelled or one.incomplete for one in channels):
            return True
        if progress.last_progress_at_ms > before_ms:
            return False
        await self.queue.blasts.truncate(blast_id)
        log.warning("blast ended as incomplete", blast=blast_id, enqueued=sum(one.enqueued for one in channels))
        return True
