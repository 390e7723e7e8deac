"""Threads that sign messages before their turns: urgent ones first, the others in order of arrival.

A thread works until no message waits. Waking a thread for each message would take longer than an Ed25519 signature.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

_MOST_THREADS = 4


class PendingMessage(Future[bytes]):
    """A message that is being signed before its turn by `work`; the result is the bytes to send."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        super().__init__()
        self._work: Callable[[], bytes] | None = work

    def sign(self) -> None:
        """Sign it; an error is raised when the message is sent."""
        work, self._work = self._work, None
        try:
            if work is not None:
                self.set_result(work())
        except Exception as error:
            self.set_exception(error)


class Signers:
    """A pool of threads, at most one per processor; each message is signed once, by the thread that claims it."""

    def __init__(self, most_threads: int = _MOST_THREADS) -> None:
        self._most_threads = min(os.cpu_count() or 1, most_threads)
        self._threads = ThreadPoolExecutor(self._most_threads, "signer")
        self._lock = Lock()
        self._urgent: deque[PendingMessage] = deque()
        self._waiting: deque[PendingMessage] = deque()
        self._working = 0

    def add(self, pending: PendingMessage, *, urgent: bool = False) -> None:
        """Queue a message for signing; an urgent one goes first."""
        with self._lock:
            (self._urgent if urgent else self._waiting).append(pending)
            if self._working == self._most_threads:
                return
            self._working += 1
        self._threads.submit(self._work)

    def hurry(self, pending: PendingMessage) -> None:
        """Sign a message whose turn has come next."""
        if not (pending.running() or pending.done()):
            self.add(pending, urgent=True)

    def close(self) -> None:
        """Stop signing and drop the queue."""
        with self._lock:
            self._urgent.clear()
            self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        while (pending := self._next()) is not None:
            pending.sign()

    def _next(self) -> PendingMessage | None:
        """Claim a message; return None, which ends the thread, if none waits."""
        with self._lock:
            while self._urgent or self._waiting:
                pending = (self._urgent or self._waiting).popleft()
                if _claim(pending):
                    return pending
            self._working -= 1
            return None


def _claim(pending: PendingMessage) -> bool:
    """Claim a message; return False if it was claimed before (a hurried one is in both queues) or cancelled."""
    return not (pending.running() or pending.done()) and pending.set_running_or_notify_cancel()
