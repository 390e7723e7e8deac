"""Settling: write the outcome of each attempt to the queue in batches, one script call at a time.

Outcomes collect while a call is under way, so batches grow with the load. While Redis is away no outcome is lost: the
consumer repeats the same call until Redis answers. If an outcome cannot be written, it is retried later and the others
are settled without it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from shared.lifecycle import is_stopping
from shared.logs import get_logger
from shared.queue.consumer import Consumer
from shared.queue.leases import Move
from shared.sending.holdings import Holdings
from shared.sending.outcomes import late_event

MOST_AT_ONCE = 500
MOST_BYTES = 1_000_000  # of jobs and events in one call, because Redis is blocked meanwhile
AGAIN_AFTER_S = 2.0
ENOUGH = 30
GATHER_S = 0.02
STALLED_AFTER_S = 0.5
"""How long a partition may take to answer until its jobs that are to be settled hold up no other partition's."""


class Settler:
    """Collects the moves that settle jobs, and carries them out.

    `one_of_several` says that there are other partitions, whose jobs the sender begins while this one does not answer.
    """

    def __init__(self, consumer: Consumer, holdings: Holdings) -> None:
        self._consumer = consumer
        self._holdings = holdings
        self.one_of_several = False
        self._stalled = False
        self._waiting: list[Move] = []
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, move: Move) -> None:
        """Add a move; it is carried out after the call under way."""
        if not self._waiting:
            self._idle.clear()
            self._arrived.set()
        self._waiting.append(move)
        if self._stalled:
            self._holdings.mark_undecided(move.lease)

    async def drained(self) -> None:
        """Wait until no added move is waiting; those set aside after an error do not count."""
        await self._idle.wait()

    async def run(self) -> None:
        """Carry out moves until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                batch: list[Move] = []
                try:
                    await self._gather()
                    batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
                    await self._carry_out(batch)
                except (Exception, asyncio.CancelledError) as error:
                    if isinstance(error, asyncio.CancelledError) and is_stopping():
                        raise
                    if not batch:
                        batch, self._waiting = self._waiting, []
                    self._set_aside(batch)
                    _log_unexpected("settler_error", batch, error)
            self._idle.set()

    async def _gather(self) -> None:
        """Wait briefly for more outcomes while the workers have jobs to send: one call for many costs everyone less.

        The other half of these jobs is sent during the calls that settle and begin, since outcomes that wait take the
        places of further jobs. Without a journal an acceptance is certain only once it is settled, so none waits then.
        """
        holdings = self._holdings
        journal = holdings.journal
        if len(self._waiting) >= ENOUGH or journal is None or not journal.complete:
            return
        per_s = holdings.pace.per_s
        coming = min(holdings.ready.qsize() // 2, ENOUGH, int(per_s * GATHER_S))
        if coming > 1:
            await asyncio.sleep(coming / per_s)

    async def _carry_out(self, batch: list[Move]) -> None:
        """Carry out a batch; if that fails, carry out its moves one by one, so that each fails on its own.

        A move that was made before the failure makes no change again; its entry is gone, as after a lost lease.
        """
        try:
            for call in _calls(batch):
                await self._settle(call)
        except Exception as error:
            _log_unexpected("settle_error", batch, error)
            if len(batch) == 1:
                self._set_aside(batch)
                return
            for one in batch:
                await self._carry_out([one])

    async def _settle(self, batch: list[Move]) -> None:
        asked_at = time.monotonic()
        stall = self.one_of_several and asyncio.get_running_loop().call_later(STALLED_AFTER_S, self._stall, batch)
        try:
            done = await self._consumer.settle(batch)
        finally:
            if stall:
                stall.cancel()
        if self._stalled:
            self._stalled = False
        else:
            self._holdings.pace.settled(time.monotonic() - asked_at)
        if not all(done):
            lost = [move for move, moved in zip(batch, done, strict=True) if not moved]
            late = [(move.lease, late_event(move.event)) for move in lost if move.kind == "sent"]
            if late:
                await self._consumer.sent_late(late)
        self._holdings.remove([move.lease for move in batch])

    def _stall(self, batch: Sequence[Move]) -> None:
        """Let jobs that cannot be settled now take no place of others: the provider has answered."""
        self._stalled = True
        for move in (*batch, *self._waiting):
            self._holdings.mark_undecided(move.lease)

    def _set_aside(self, batch: list[Move]) -> None:
        """Retry moves that failed after a pause; this sender still holds the jobs, so no other sends them."""
        for move in batch:
            asyncio.get_running_loop().call_later(AGAIN_AFTER_S, self.add, move)


def _calls(batch: Sequence[Move]) -> Iterator[list[Move]]:
    """Cut a batch into calls of at most MOST_BYTES; a larger move has a call of its own."""
    call: list[Move] = []
    size = 0
    for move in batch:
        added = len(move.packed) + len(move.event)
        if call and size + added > MOST_BYTES:
            yield call
            call, size = [], 0
        call.append(move)
        size += added
    yield call


def _log_unexpected(event: str, batch: list[Move], error: BaseException) -> None:
    get_logger().error(event, job_id=batch[0].lease.job_id, jobs=len(batch), exc_info=error)
