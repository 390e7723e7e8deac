"""Receipts that a test reports, and the judge of their effects in the log and in the list of suppressions."""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from shared.events import EventBatch, Receipts, pack_batch
from shared.queue.partitions import first_partition
from shared.queue.suppressions import Suppressions
from shared.receipts import Receipt, delivery_rank
from tests.faults.checks import Checks
from tests.faults.oracle import Oracle

# no two reporters give their batches the same name
_numbers = itertools.count()
_ROWS = "SELECT job_id, kind, count(*) FROM message_receipts WHERE job_id LIKE ? GROUP BY job_id, kind"
_DELIVERIES = "SELECT job_id, coalesce(delivery, '') FROM message_logs WHERE job_id LIKE ?"
_KEPT = "SELECT delivery, n FROM blast_deliveries WHERE blast_id = ? AND n <> 0"
_OUTBOX = "SELECT count(*) FROM suppression_outbox"


@dataclass(frozen=True, slots=True)
class Logged:
    """What the log says of one blast's receipts: rows by job and kind, deliveries by job, and the kept counts."""

    rows: Mapping[tuple[str, str], int]
    deliveries: Mapping[str, str]
    kept: Mapping[str, int]


@dataclass
class Reporter:
    """Emits receipts into the channel's events as the receipts service does, and remembers them by job."""

    oracle: Oracle
    told: dict[str, list[Receipt]] = field(default_factory=dict)
    emitted: int = 0
    number: int = field(default_factory=lambda: next(_numbers))

    async def tell(self, *receipts: Receipt, times: int = 1, foreign: bool = False) -> None:
        """Emit a batch, `times` times under one name; a `foreign` one must have no effect."""
        self.emitted += 1
        batch = EventBatch(f"receipts/email/{self.number}", self.emitted, [Receipts(list(receipts))])
        partition = first_partition(self.oracle.world.queue.redis, "email")
        for _ in range(times):
            await partition.call("emit_event", (pack_batch(batch),))
        for one in () if foreign else receipts:
            self.told.setdefault(one.job_id, []).append(one)

    async def audit(self, blast_id: str, addresses: dict[str, str], timeout_s: float) -> None:
        """Judge a blast once nothing waits; `addresses` are those of all its jobs."""
        checks = self.oracle.checks
        settled = await self.oracle.within(self._is_settled, timeout_s)
        checks.that("G8", settled, f"receipts or suppressions still wait after {timeout_s:g} s")
        told = {job: self.told.get(job, []) for job in addresses}
        judge_log(checks, told, self._logged(blast_id))
        suppressions = Suppressions(self.oracle.world.queue.redis)
        found = {job: {one.scope for one in await suppressions.get("email", to)} for job, to in addresses.items()}
        judge_suppressions(checks, told, found)

    async def _is_settled(self) -> bool:
        if await self.oracle.world.queue.unread_events():
            return False
        with closing(sqlite3.connect(f"file:{self.oracle.world.database}?mode=ro", uri=True)) as database:
            return int(database.execute(_OUTBOX).fetchone()[0]) == 0

    def _logged(self, blast_id: str) -> Logged:
        like = f"{blast_id}:%"
        with closing(sqlite3.connect(f"file:{self.oracle.world.database}?mode=ro", uri=True)) as database:
            rows = {(job, kind): n for job, kind, n in database.execute(_ROWS, (like,))}
            deliveries = dict(database.execute(_DELIVERIES, (like,)))
            return Logged(rows, deliveries, dict(database.execute(_KEPT, (blast_id,))))


def judge_log(checks: Checks, told: Mapping[str, Sequence[Receipt]], logged: Logged) -> None:
    """G8: each receipt is one row, `delivery` is the highest rank, and the counts are those of the rows."""
    expected = {(job, one.kind) for job, every in told.items() for one in every}
    wrong = [
        f"{key} × {n}" for key in expected | set(logged.rows) if (n := logged.rows.get(key, 0)) != (key in expected)
    ]
    checks.none("G8", wrong, len(expected), "receipts that are not in the log exactly once")
    should = {job: _highest(every) for job, every in told.items()}
    odd = [f"{job} {found!r}" for job, one in should.items() if (found := logged.deliveries.get(job)) != one]
    checks.none("G8", odd, len(should), "messages with another delivery than their receipts say")
    counted = Counter(one for one in should.values() if one)
    checks.that("G8", dict(logged.kept) == counted, f"the counts {logged.kept} are not those of the rows {counted}")


def judge_suppressions(
    checks: Checks, told: Mapping[str, Sequence[Receipt]], found: Mapping[str, Iterable[str]]
) -> None:
    """G8: exactly the addresses of trusted receipts are suppressed, each in its scope."""
    missing, wrong = [], []
    for job, scopes in found.items():
        should = _scopes(told.get(job, ()))
        missing += [f"{job} {scope}" for scope in should - set(scopes)]
        wrong += [f"{job} {scope}" for scope in set(scopes) - should]
    checks.none("G8", missing, len(found), "addresses that a receipt should have suppressed")
    checks.none("G8", wrong, len(found), "addresses suppressed without a trusted receipt")


def _highest(receipts: Sequence[Receipt]) -> str:
    return max((one.kind for one in receipts), key=lambda kind: delivery_rank("email", kind), default="")


def _scopes(receipts: Iterable[Receipt]) -> set[str]:
    """Return the scopes of the suppressions that follow from receipts."""
    hard = {"all" for one in receipts if one.trusted and one.kind == "bounced" and one.severity == "hard"}
    return hard | {"marketing" for one in receipts if one.trusted and one.kind == "complained"}
