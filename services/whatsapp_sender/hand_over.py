"""Records when a request's body starts to be sent, and bounds the wait for the response from then on.

Before that the message was certainly not delivered; after that it may have been. When a process continues after it
stood still, aiohttp's own time-outs fire before it reads the data that has arrived. So this module keeps its own.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from types import SimpleNamespace

import aiohttp

_STOOD_STILL_S = 0.02


class HandOver:
    """One request; `begun` is set when its body starts to be sent. Raises TimeoutError `answer_s` after that.

    Time in which the process stood still is added to the wait, up to `answer_s` in total.
    """

    def __init__(self, answer_s: float) -> None:
        self.begun = False
        self._answer_s = answer_s
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def bounded(self) -> AbstractAsyncContextManager[object]:
        """Return the context manager that bounds the request."""
        return self._limit

    def begin(self) -> None:
        """Note that the first byte of the body is sent; starts the time-out."""
        if not self.begun:
            self.begun = True
            self._arm(self._answer_s, self._answer_s)

    def end(self) -> None:
        """Stop the time-out: the response has been read, or will not arrive."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, wait_s: float, more_s: float) -> None:
        self._timer = self._loop.call_later(wait_s, self._give_up, self._loop.time() + wait_s, more_s)

    def _give_up(self, due: float, more_s: float) -> None:
        """Time out; time in which this process stood still does not count, since a response may have arrived unread."""
        late_s = min(self._loop.time() - due, more_s)
        if late_s > _STOOD_STILL_S:
            self._arm(late_s, more_s - late_s)
        else:
            self._limit.reschedule(self._loop.time())


def noting_hand_over() -> aiohttp.TraceConfig:
    """Return the trace that notifies the `HandOver` in a request's trace context."""
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_note)
    return trace


async def _note(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestChunkSentParams
) -> None:
    with suppress(AttributeError):
        context.trace_request_ctx.begin()
