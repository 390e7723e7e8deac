"""When a request's body begins to be sent, and how long the answer is waited for from then on.

Until then the message was surely not delivered; from then on it may have been. aiohttp's own time-outs fire when a
process that stood still goes on, before it has read what came meanwhile; so the answer's is kept here.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from types import SimpleNamespace

import aiohttp

_STOOD_STILL_S = 0.02


class HandOver:
    """One request on its way; `begun` once its body is being sent. Raises TimeoutError `answer_s` after that.

    Time in which the process stood still is waited for once more, as long as `answer_s` in all.
    """

    def __init__(self, answer_s: float) -> None:
        self.begun = False
        self._answer_s = answer_s
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def bounded(self) -> AbstractAsyncContextManager[object]:
        """Return what bounds the request while it is entered."""
        return self._limit

    def begin(self) -> None:
        """The first byte of the body goes out."""
        if not self.begun:
            self.begun = True
            self._arm(self._answer_s, self._answer_s)

    def end(self) -> None:
        """The answer has been read, or will not come."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, wait_s: float, more_s: float) -> None:
        self._timer = self._loop.call_later(wait_s, self._give_up, self._loop.time() + wait_s, more_s)

    def _give_up(self, due: float, more_s: float) -> None:
        """Give up; but time in which this process stood still does not count: the answer may be here unread."""
        late_s = min(self._loop.time() - due, more_s)
        if late_s > _STOOD_STILL_S:
            self._arm(late_s, more_s - late_s)
        else:
            self._limit.reschedule(self._loop.time())


def noting_hand_over() -> aiohttp.TraceConfig:
    """Return what tells the `HandOver` that a request was given as its context."""
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_note)
    return trace


async def _note(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestChunkSentParams
) -> None:
    with suppress(AttributeError):
        context.trace_request_ctx.begin()
