"""Bounds on waiting for a server, and the moment at which a request's body starts to be sent.

Before that moment the message was certainly not delivered; after that it may have been. aiohttp's own time-outs would
count the time in which the process was suspended, so a `SuspendAwareTimer` bounds every wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import SimpleNamespace

import aiohttp

from shared.clock import SuspendAwareTimer


class Bound:
    """A time-out that starts when told to, and raises TimeoutError in the block that `bounded` covers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer = SuspendAwareTimer(self._loop, self._time_out)

    def bounded(self) -> AbstractAsyncContextManager[object]:
        """Return the context manager of the block."""
        return self._timeout

    def start(self, seconds: float) -> None:
        """Start the time-out; it must not be running."""
        self._timer.start(seconds)

    def end(self) -> None:
        """Stop the time-out."""
        self._timer.cancel()

    def _time_out(self) -> None:
        self._timeout.reschedule(self._loop.time())


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError if the block takes longer; time in which the process was suspended does not count."""
    bound = Bound()
    async with bound.bounded():
        bound.start(seconds)
        try:
            yield
        finally:
            bound.end()


class HandOver:
    """One request; `begun` is set when its body starts to be sent. Raises TimeoutError `answer_s` after that."""

    def __init__(self, answer_s: float) -> None:
        self.begun = False
        self._answer_s = answer_s
        self._bound = Bound()

    def bounded(self) -> AbstractAsyncContextManager[object]:
        """Return the context manager that bounds the request."""
        return self._bound.bounded()

    def begin(self) -> None:
        """Note that the first byte of the body is sent; starts the time-out."""
        if not self.begun:
            self.begun = True
            self._bound.start(self._answer_s)

    def end(self) -> None:
        """Stop the time-out: the response has been read, or will not arrive."""
        self._bound.end()


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
