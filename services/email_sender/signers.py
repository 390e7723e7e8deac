"""Threads that sign messages ahead of their turns: the urgent ones first, all others in the order they came.

A thread works until nothing waits. Waking one up for each message would take longer than an Ed25519 signature.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from services.email_sender.signing import Draft

_MOST_THREADS = 4


class Ahead(Future[bytes]):
    """A message that is signed ahead of its turn; its result is what a server gets.

    It is `quick` where signing takes less time than waiting for a thread.
    """

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft: Draft | None = draft
        self.quick = draft.quick

    def sign(self) -> None:
        """Sign it; what goes wrong is raised where the message is sent."""
        draft, self._draft = self._draft, None
        try:
            if draft is not None:
                self.set_result(draft.signed())
        except Exception as error:
            self.set_exception(error)


class Signers:
    """At most one thread for each processor; each message is signed once, by the thread that claims it first."""

    def __init__(self, most_threads: int = _MOST_THREADS) -> None:
        self._most_threads = min(os.cpu_count() or 1, most_threads)
        self._threads = ThreadPoolExecutor(self._most_threads, "signer")
        self._lock = Lock()
        self._urgent: deque[Ahead] = deque()
        self._waiting: deque[Ahead] = deque()
        self._working = 0

    def add(self, ahead: Ahead, *, urgent: bool = False) -> None:
        """Have a message signed; an urgent one next."""
        with self._lock:
            (self._urgent if urgent else self._waiting).append(ahead)
            if self._working == self._most_threads:
                return
            self._working += 1
        self._threads.submit(self._work)

    def hurry(self, ahead: Ahead) -> None:
        """Have a message signed next whose turn has come; a quick one is signed here and now."""
        if ahead.quick and self._claimed(ahead):
            ahead.sign()
        elif not (ahead.running() or ahead.done()):
            self.add(ahead, urgent=True)

    def close(self) -> None:
        """Sign nothing more."""
        with self._lock:
            self._urgent.clear()
            self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _claimed(self, ahead: Ahead) -> bool:
        with self._lock:
            return _claim(ahead)

    def _work(self) -> None:
        while (ahead := self._next()) is not None:
            ahead.sign()

    def _next(self) -> Ahead | None:
        """Claim a message; None, at which the thread ends, where nothing waits."""
        with self._lock:
            while self._urgent or self._waiting:
                ahead = (self._urgent or self._waiting).popleft()
                if _claim(ahead):
                    return ahead
            self._working -= 1
            return None


def _claim(ahead: Ahead) -> bool:
    """Return whether nobody had it before; a hurried message is in both lines, a forgotten one is cancelled."""
    return not (ahead.running() or ahead.done()) and ahead.set_running_or_notify_cancel()
