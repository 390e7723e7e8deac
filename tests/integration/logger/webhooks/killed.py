"""A logger that kills itself with SIGKILL at one step: `python -m tests.integration.logger.webhooks.killed STEP NTH`.

Steps: `journal uncommitted`, `journal committed` (the recorder's transaction, before and after its commit), `feeder
uncommitted`, `feeder committed` (deliveries and cursor, or marks), `enqueue called`, `enqueue answered`.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from services.logger.main import run
from services.logger.sqlite_store import SqliteStore
from shared.queue.webhook_queues import Outgoing, WebhookQueues
from shared.webhooks import Endpoint

_KINDS = {"Recorder._record": "journal", "Feeder._write": "feeder"}


class Steps:
    """Counts the steps that are reached, and ends the process at the nth one of a name."""

    def __init__(self, name: str, nth: int) -> None:
        self._name = name
        self._nth = nth
        self._reached: Counter[str] = Counter()

    def reached(self, name: str) -> None:
        """Note a step, and end the process if it is the one."""
        self._reached[name] += 1
        if name == self._name and self._reached[name] == self._nth:
            os.kill(os.getpid(), signal.SIGKILL)


def watch(steps: Steps) -> None:
    """Let the logger's own code report its steps."""
    transact, enqueue = SqliteStore._transact, WebhookQueues.enqueue

    def watched_transact(self: SqliteStore, work: Callable[[sqlite3.Connection], Any]) -> Any:
        kind = _KINDS.get(getattr(work, "__qualname__", "").partition(".<locals>")[0], "other")

        def watched(connection: sqlite3.Connection) -> Any:
            done = work(connection)
            steps.reached(f"{kind} uncommitted")
            return done

        done: Any = transact(self, watched)
        steps.reached(f"{kind} committed")
        return done

    async def watched_enqueue(self: WebhookQueues, endpoint: Endpoint, deliveries: Sequence[Outgoing]) -> int:
        steps.reached("enqueue called")
        done = await enqueue(self, endpoint, deliveries)
        steps.reached("enqueue answered")
        return done

    SqliteStore._transact = watched_transact  # type: ignore[method-assign]
    WebhookQueues.enqueue = watched_enqueue  # type: ignore[method-assign]


if __name__ == "__main__":
    watch(Steps(sys.argv[1], int(sys.argv[2])))
    run()
