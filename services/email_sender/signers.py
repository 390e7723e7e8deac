"""Threads that sign messages before their turns: urgent ones first, the others in order of arrival.

A thread works until no message waits. Waking a thread for each message would take longer than an Ed25519 signature.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from services.email_sender.signing import Draft

_MOST_THREADS = 4


class PendingMessage(Future[bytes]):
    """A message that is being signed before its turn; the result is the bytes to send.

    It is `quick` if signing takes less time than waiting for a thread.
    """

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft: Draft | None = draft
        self.quick = draft.quick

    def sign(self) -> None:
        """Sign it; an error is raised when the message is sent."""
        draft, self._draft = self._draft, None
        try:
            if draft is not None:
                self.set_result(draft.signed())
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
        """Sign a message whose turn has come: a quick one in this thread, another next in the queue."""
        if pending.quick and self._claimed(pending):
            pending.sign()
        elif not (pending.running() or pending.done()):
            self.add(pending, urgent=True)

    def close(self) -> None:
        """Stop signing and drop the queue."""
        with self._lock:
            self._urgent.clear()
            self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _claimed(self, pending: PendingMessage) -> bool:
        with self._lock:
            return _claim(pending)

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
