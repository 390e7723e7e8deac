"""Recent ends: how many messages of each blast ended in the last seconds, from which its rate and its end follow.

The only logger of a database knows them from what it writes. Of several loggers each writes a part, so each of them
compares the counts of the blasts that are not over with those of its last sample.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import NamedTuple, get_args

from services.logger.blast_rows import ENDED_STATES
from services.logger.database import Database
from services.logger.store import QueryTooSlowError, StorageError, Store
from shared.blasts import BlastState
from shared.jobs import TERMINAL
from shared.lifecycle import Stop
from shared.logs import get_logger

log = get_logger()
_WINDOW_S = 10.0
_SAMPLE_EVERY_S = 1.0


def _listed(values: list[str]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


# an index has the states, so those of blasts that are not over are listed
ENDED_SO_FAR = f"""
SELECT b.blast_id, sum(c.n), b.reopened_at_ms > 0 FROM blasts b JOIN blast_counts c ON c.blast_id = b.blast_id
WHERE b.state IN ({_listed([state for state in get_args(BlastState) if state not in ENDED_STATES])})
    AND c.status IN ({_listed(list(TERMINAL))})
GROUP BY b.blast_id, b.reopened_at_ms
"""  # noqa: S608 -- own words


class EndedSoFar(NamedTuple):
    """How many jobs of each blast that is not over have ended, and which of the blasts were opened again."""

    jobs: dict[str, int]
    reopened: frozenset[str] = frozenset()


class RecentEnds:
    """Measures how many messages of each blast ended recently; used only from the event loop."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Counter[str]]] = deque()
        self._known: dict[str, int] | None = None

    def note(self, ended_jobs: Counter[str]) -> None:
        """Add the number of jobs of each blast that a batch ended."""
        now = time.monotonic()
        if ended_jobs:
            self._recent.append((now, ended_jobs))
        while self._recent and self._recent[0][0] < now - _WINDOW_S:
            self._recent.popleft()

    def compare(self, ended: EndedSoFar) -> None:
        """Add what ended since the last call."""
        if self._known is not None:
            # of one that was just opened again, most ended long ago
            base = {one: ended.jobs[one] for one in ended.reopened} | self._known
            # a message that is sent again has not ended any more
            self.note(Counter({one: n - base.get(one, 0) for one, n in ended.jobs.items()}))
        self._known = ended.jobs

    def rates(self) -> dict[str, float]:
        """Return by blast how many messages ended per second over the last ten seconds."""
        self.note(Counter())
        total: Counter[str] = Counter()
        for _, ended in self._recent:
            total.update(ended)
        return {blast_id: round(n / _WINDOW_S, 1) for blast_id, n in total.items() if n > 0}


async def follow_ends(recent: RecentEnds, store: Store, stop: Stop) -> None:
    """Sample once a second, until stopped, what all loggers of a shared database have written."""
    while not stop.is_set():
        try:
            recent.compare(await store.read(count_ended))
        except (StorageError, QueryTooSlowError) as error:
            log.debug("the rates of blasts are not up to date", reason=str(error))
        try:
            await asyncio.wait_for(stop.wait(), _SAMPLE_EVERY_S)
        except TimeoutError:
            continue


def count_ended(connection: Database) -> EndedSoFar:
    """Return how many jobs of each blast that is not over have ended."""
    rows = connection.execute(ENDED_SO_FAR).fetchall()
    jobs = {blast_id: int(n) for blast_id, n, _ in rows}
    return EndedSoFar(jobs, frozenset(blast_id for blast_id, _, reopened in rows if reopened))
