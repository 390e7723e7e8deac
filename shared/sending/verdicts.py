"""Permanent refusals that are held until it is clear whether they concern the recipient or everyone.

A server that refuses every recipient for the same reason (a relay that rejects us, a block list, a wrong setting) must
not fail a whole blast or suppress its addresses. So a refusal is held, with its job in flight, until the server accepts
a message or refuses one for another reason; then it counts. When a run of like refusals is complete, the channel
pauses with the server's reply (if other servers are left, this one is set aside instead), and all jobs that are held go
back without using an attempt. A refusal that nothing decides counts after `patience_s`.

The run is counted in the queue (`shared.queue.refusals`), across all senders and restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared.clock import Clock
from shared.errors import OPTED_OUT_REASON, PermanentError, QueueUnavailableError, Refusal, RefusesAllError, SendError
from shared.logs import get_logger
from shared.queue.refusals import Refusals, Refused, Word
from shared.sending.holdings import Holdings
from shared.sending.outcomes import Tried
from shared.sending.settings import SendingSettings
from shared.suppressions import HARD_BOUNCE

PATIENCE_S = 5.0
LONGEST_PATIENCE_S = 60.0
_POLL_S = 0.1
_RETRY_S = 0.5

T = TypeVar("T")
Conclude = Callable[[Tried, SendError], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Held:
    tried: Tried
    error: PermanentError
    refused: Refused


@dataclass(slots=True)
class _Run:
    """A server's run of like refusals, as this sender knows it; times on the monotonic clock."""

    refusal: Refusal
    accepted: int
    until: float
    held: list[_Held] = field(default_factory=list)


class Verdicts:
    """The refusals that one sender holds; `conclude` settles a job by an error."""

    def __init__(self, refusals: Refusals, holdings: Holdings, clock: Clock, patience_s: float) -> None:
        self._refusals = refusals
        self._holdings = holdings
        self._clock = clock
        self._patience_s = patience_s
        self._runs: dict[str, _Run] = {}
        self._accepted: dict[str, int] = {}
        self._any = asyncio.Event()
        self._closing = False

    async def weigh(self, tried: Tried, error: PermanentError, conclude: Conclude) -> SendError | None:
        """Return the error to settle by; None while that is not clear, and the job is concluded later."""
        refusal = error.refusal
        if refusal is None:
            return error
        if self._closing:
            return _returned(error, "its sender stopped")
        await self._end_if_accepted(refusal)
        run = self._runs.get(refusal.server)
        if run is not None and (run.refusal.alike != refusal.alike or run.accepted != self._accepted_by(refusal)):
            await self._release(run, conclude)
        refused = _refused(tried, error, refusal)
        alone = not refusal.others_left()
        word = await self._until_answered(lambda: self._refusals.count(refused, refusal.most, alone=alone))
        return await self._act(_Held(tried, error, refused), word, conclude)

    async def _act(self, one: _Held, word: Word, conclude: Conclude) -> SendError | None:
        refusal = one.error.refusal
        assert refusal is not None  # noqa: S101 -- `weigh` has seen to it
        if word == "final":
            return one.error
        if word == "hold" and not self._closing:
            self._hold(one, refusal)
            return None
        reason = one.refused.reason
        if word == "stop":
            get_logger().error("server_refuses_all", server=refusal.server, code=one.error.code)
        if word in {"stop", "aside"} and refusal.others_left():
            refusal.set_aside(reason)
        run = self._runs.pop(refusal.server, None)
        for held in run.held if run else ():
            await conclude(held.tried, _returned(held.error, reason))
        return _returned(one.error, reason)

    def _hold(self, one: _Held, refusal: Refusal) -> None:
        run = self._runs.setdefault(refusal.server, _Run(refusal, self._accepted_by(refusal), 0.0))
        run.held.append(one)
        run.until = self._clock.monotonic() + self._patience_s
        self._holdings.mark_undecided(one.tried.lease)
        self._any.set()

    async def _end_if_accepted(self, refusal: Refusal) -> None:
        """End a server's run, also in the queue, if the server has accepted a message since the last check."""
        accepted = refusal.accepted()
        if accepted != self._accepted_by(refusal):
            self._accepted[refusal.server] = accepted
            await self._until_answered(lambda: self._refusals.clear(refusal.server))

    def _accepted_by(self, refusal: Refusal) -> int:
        return self._accepted.get(refusal.server, 0)

    async def run(self, conclude: Conclude) -> None:
        """Conclude refusals that have become clear or have waited long enough, until cancelled."""
        while True:
            if not self._runs:  # a process may have a hundred of these loops
                self._any.clear()
                await self._any.wait()
            await self._clock.sleep(_POLL_S)
            for run in list(self._runs.values()):
                if run.refusal.accepted() != run.accepted:
                    await self._end_if_accepted(run.refusal)
                    await self._release(run, conclude)
                elif self._clock.monotonic() >= run.until:
                    await self._expire(run, conclude)

    async def _release(self, run: _Run, conclude: Conclude) -> None:
        """End a run: the refusals held count."""
        self._drop(run)
        for held in run.held:
            await conclude(held.tried, held.error)

    async def _expire(self, run: _Run, conclude: Conclude) -> None:
        """Decide a run that has waited long enough by what the queue knows from all senders."""
        refused = run.held[0].refused
        word = await self._until_answered(lambda: self._refusals.check(refused, self._patience_s))
        if self._runs.get(run.refusal.server) is not run:
            return
        if word == "hold":
            run.until = self._clock.monotonic() + self._patience_s
            return
        self._drop(run)
        for held in run.held:
            stopped = word in {"back", "aside"}
            await conclude(held.tried, _returned(held.error, refused.reason) if stopped else held.error)

    def _drop(self, run: _Run) -> None:
        if self._runs.get(run.refusal.server) is run:
            del self._runs[run.refusal.server]

    async def close(self, conclude: Conclude) -> None:
        """Give back the jobs held; another sender gets the same refusal and continues the count."""
        self._closing = True
        runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            for held in run.held:
                await conclude(held.tried, _returned(held.error, "its sender stopped"))

    async def _until_answered(self, action: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await action()
            except QueueUnavailableError:
                await self._clock.sleep(_RETRY_S)


def patience_s(settings: SendingSettings) -> float:
    """Return for how many seconds a refusal is held; longer if the channel's rate spaces messages far apart."""
    gap_s = settings.rate.period_s / settings.rate.count if settings.rate else 0.0
    return min(max(PATIENCE_S * settings.time_scale, 2.5 * gap_s), LONGEST_PATIENCE_S)


def suppression_reason(suppress: str) -> str:
    """Return the reason that a suppression stores: the opt-out's as it is, any other as a hard bounce."""
    return suppress if suppress.startswith(OPTED_OUT_REASON) else f"{HARD_BOUNCE}: {suppress}"


def _refused(tried: Tried, error: PermanentError, refusal: Refusal) -> Refused:
    reason = (
        f"{refusal.server} refused {refusal.most} recipients in a row for the same reason, "
        f"none accepted in between: {error.reply}"
    )
    suppression = suppression_reason(error.suppress) if error.suppress else ""
    return Refused(refusal.server, refusal.alike, tried.lease.job.recipient.address, suppression, reason)


def _returned(error: PermanentError, reason: str) -> RefusesAllError:
    return RefusesAllError(reason, code=error.code, reply=error.reply)
