"""The oracle: compares what ingest promised, what the provider accepted, and what the log says.

It does not know how Kurir works inside. A scenario registers the jobs that may be delivered once more (those that a
lost sender had in mid-send), and the proxies report whose answers they lost. It checks every job for every guarantee.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from shared.errors import QueueUnavailableError
from shared.jobs import TERMINAL
from shared.retry import DEFERRAL_WAITS_S
from tests.faults.checks import Checks
from tests.faults.client import Posted
from tests.faults.deliveries import Delivery
from tests.faults.lost_masters import LostMaster
from tests.faults.world import World

_UNSENT = frozenset({"cancelled", "expired", "suppressed"})
# no job may vanish, or be reported as lost
_VANISHED = frozenset({"lost", "blast_gone", "undecodable"})
# a job in mid-send at its expiry is finished: nothing takes longer than this
_LONGEST_SEND_S = 15.0
MAYBE_DELIVERED = frozenset({"uncertain", "poison"})
_SETTLE_S = 30.0
_POLL_S = 0.05
_MOST_FILES = 150  # the pools to Redis and the mail server, the database's connections, a few of Python's own
_MOST_STORIES = 3
_MOST_LINES = 60
_MOST_COMPLAINTS = 25  # warnings and errors that one service logs within a second
_TELLING = (
    "sender_reaped",
    "lease_lapsed",
    "entries_without_task",
    "sender_starts",
    "grace_time_exceeded",
    "jobs_left_unsettled",
)


@dataclass
class Oracle:
    """Checks a world; `allowed` counts the extra deliveries that G2 grants, by job; `told` records actions by time.

    `failovers` are the masters that were lost.
    """

    world: World
    checks: Checks
    allowed: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    failovers: list[LostMaster] = field(default_factory=list)

    def allow(self, jobs: Iterable[str]) -> None:
        """Grant each of these jobs one more delivery: its sender or its answer was lost in mid-send."""
        self.allowed.update(jobs)

    def note_failover(self, lost: LostMaster) -> None:
        """Allow what a failover may repeat; check that no job of an accepted blast was only on the lost master.

        Jobs in mid-send may be sent once more, and those whose end the replica had not heard of.
        """
        self.failovers.append(lost)
        self.allow(lost.ended | lost.in_mid_send)
        accepted = {posted.blast_id for posted in self.world.client.posted if posted.blast_id}
        lacking = [job_id for job_id in lost.unknown if job_id.partition(":")[0] in accepted]
        self.checks.none("G1", lacking, len(lost.kept) or 1, "jobs of accepted blasts that no replica has")
        self.told.append(
            f"{lost.lost_at:.3f} a master was lost: ended {sorted(lost.ended)}, in mid-send {sorted(lost.in_mid_send)},"
            f" uploads {sorted(lost.uploads)}, cancelled {sorted(lost.cancelled)}"
        )

    async def audit(self, blasts: Sequence[Posted], timeout_s: float) -> None:
        """Wait until all blasts have ended within the time, then check G1 to G5 for each of their jobs.

        A job that a provider deferred past that time has until it is due, and then as long as work needs to flow again.
        """
        deadline = time.monotonic() + timeout_s
        for posted in blasts:
            ended = await self._ends(posted, deadline)
            said = "" if ended else str(await self._where_it_stands(posted))
            self.checks.that("G1", ended, f"blast {posted.blast_id} has not ended within {timeout_s:g} s: {said}")
        delivered, granted = self.world.deliveries.by_job(), self.granted(blasts)
        for posted in blasts:
            rows = await self.world.client.rows(posted.blast_id)
            self._check_rows(posted, rows)
            self._check_deliveries(rows, delivered, granted)
            self.check_causes(posted, rows)
            self.check_times(posted, rows, delivered, granted)
            await self._check_counts(posted, rows)
        self.check_promises(delivered)

        async def is_balanced() -> bool:
            await self.world.queue.check_balance(self.checks)
            return True

        checked = await self.within(is_balanced, _SETTLE_S)
        self.checks.that("G4", checked, "Redis could not be read to check the balance")

    async def _ends(self, posted: Posted, deadline: float) -> bool:
        form = self.world.form
        while not await self.world.client.ended(posted, deadline - time.monotonic()):
            due_in_s = await self.world.queue.last_due_in_s(posted.blast_id)
            if not 0 < due_in_s <= DEFERRAL_WAITS_S[-1] * form.scale:
                return False
            deadline = time.monotonic() + due_in_s + form.flows_again_s
        return True

    def granted(self, blasts: Sequence[Posted]) -> Counter[str]:
        """Return by job the extra deliveries that G2 grants: those that a scenario allowed, and one per lost answer.

        Jobs are found now, not when an answer was lost: the blast's answer, with its id, may have been outstanding.
        """
        lost: Counter[str] = Counter()
        for mail in self.world.mails.values():
            lost.update(mail.lost_answers)
        granted = self.allowed.copy()
        for posted in blasts:
            for address in lost.keys() & posted.email_jobs.keys():
                granted[posted.email_jobs[address]] += lost[address]
        granted.update(self._added_again())
        return granted

    def _added_again(self) -> Iterator[str]:
        """Yield the jobs that were sent before a failover and that ingest had to add again, once for each failover."""
        for failover in self.failovers:
            for job_id, taken in self.world.deliveries.by_job().items() if failover.uploads else ():
                if taken[0].at < failover.lost_at and failover.is_added_again(job_id, self.world.partitions):
                    yield job_id

    async def audit_database(self) -> None:
        """G5: once all events are written, every stored count equals its number of rows."""
        await self._all_written()
        with closing(sqlite3.connect(f"file:{self.world.database}?mode=ro", uri=True)) as database:
            for table, grouped in _TALLIES.items():
                kept = _counts(database, f"SELECT {grouped}, n FROM {table}")
                real = _counts(database, f"SELECT {grouped}, COUNT(*) FROM message_logs GROUP BY {grouped}")
                self.checks.that("G5", kept == real, f"{table} {kept} != rows {real}")
            integrity = database.execute("PRAGMA integrity_check").fetchone()[0]
        self.checks.that("G5", integrity == "ok", f"the database is damaged: {integrity}")

    async def audit_leftovers(self) -> None:
        """G7: nothing is pending, all consumers belong to living senders, nothing leaks, no error storms."""
        living = [f"-{child.pid}-" for name, child in self.world.children.items() if "sender" in name]
        consumers: Counter[str] = Counter()
        leftovers: dict[str, int] = {}

        async def is_clean() -> bool:
            nonlocal consumers, leftovers
            consumers, leftovers = await self.world.queue.consumers(), await self.world.queue.leftovers()
            strangers = [name for name in consumers if ":" in name and not any(pid in name for pid in living)]
            return not strangers and not any(consumers.values()) and not leftovers

        clean = await self.within(is_clean, self.world.form.dead_sender_s + 5)
        self.checks.that("G7", clean, f"consumers left behind: {dict(consumers)}, in indexes: {leftovers}")
        findings: list[str] = []

        async def is_sound() -> bool:
            nonlocal findings
            findings = await self.world.queue.findings()
            return not findings

        sound = await self.within(is_sound, self.world.form.dead_sender_s + 5)
        self.checks.that("G4", sound, f"the doctor finds: {findings}")
        running = [child for child in self.world.children.values() if child.runs()]
        swollen = [
            f"{child.name} has {now} open files and connections"
            for child in running
            if (now := child.process.num_fds()) > _MOST_FILES
        ]
        self.checks.none("G7", swollen, len(running), "processes that leak file descriptors")
        per_second = self.world.complaints_per_second()
        storms = [f"{name} at {at}: {n}" for (name, at), n in per_second.items() if n > _MOST_COMPLAINTS]
        self.checks.none("G7", storms, len(per_second) or 1, "seconds with a storm of warnings and errors")

    async def _all_written(self) -> None:
        async def is_written() -> bool:
            return await self.world.queue.unread_events() == 0

        written = await self.within(is_written, _SETTLE_S)
        self.checks.that("G7", written, "the logger has not caught up")

    async def within(self, predicate: Callable[[], bool | Awaitable[bool]], timeout_s: float) -> bool:
        """Return whether a condition becomes true in time.

        It is not while Redis cannot be read: a node of a cluster that stood still refuses calls for a moment.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(QueueUnavailableError):
                answer = predicate()
                if answer if isinstance(answer, bool) else await answer:
                    return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)

    async def _where_it_stands(self, posted: Posted) -> dict[str, Any]:
        _, answer = await self.world.client.call("GET", f"/api/v1/blasts/{posted.blast_id}")
        rows = Counter(row["status"] for row in await self.world.client.rows(posted.blast_id))
        return {"blast": answer, "rows": dict(rows), "stats": await self.world.queue.stats()}

    def _check_rows(self, posted: Posted, rows: Sequence[dict[str, Any]]) -> None:
        seen = Counter(row["job_id"] for row in rows)
        missing = posted.job_ids - set(seen)
        unended = [f"{row['job_id']} {row['status']}" for row in rows if row["status"] not in TERMINAL]
        doubled = [job for job, times in seen.items() if times > 1]
        strange = set(seen) - posted.job_ids
        self.checks.none("G1", missing, posted.total, "accepted jobs without a row")
        self.checks.none("G1", unended, len(rows), "jobs without an end")
        self.checks.none("G5", [*doubled, *strange], len(rows), "rows that are doubled or belong to no job")

    def _check_deliveries(
        self, rows: Sequence[dict[str, Any]], delivered: dict[str, list[Delivery]], granted: Counter[str]
    ) -> None:
        lost, wrong, begun, doubled, renamed = [], [], [], [], []
        for row in rows:
            job_id, status = row["job_id"], row["status"]
            taken = delivered.get(job_id, [])
            if status == "sent" and not taken:
                lost.append(job_id)
            if status == "failed" and taken and row["error_class"] not in MAYBE_DELIVERED:
                wrong.append(f"{job_id} {row['error_class']}: {row['error_message']}")
            if status in _UNSENT and taken and not granted[job_id]:
                begun.append(f"{job_id} {status}")
            if len(taken) > 1 + granted[job_id]:
                doubled.append(f"{job_id} × {len(taken)}, {granted[job_id]} more allowed")
            if len({one.message_id for one in taken if one.channel == "email"}) > row["run"]:
                renamed.append(job_id)
        for told in [*doubled, *lost, *wrong][:_MOST_STORIES]:
            self.checks.stories += self._story(told.split()[0], delivered)
        self.checks.none("G1", lost, len(rows), "jobs said to be sent that no provider took")
        self.checks.none("G1", wrong, len(rows), "jobs said to have failed that the provider took")
        self.checks.none("G2", doubled, len(rows), "jobs delivered more often than they may")
        self.checks.none("G2", renamed, len(rows), "jobs delivered under two Message-IDs")
        self.checks.none("G3", begun, len(rows), "jobs sent after their end")

    def check_causes(self, posted: Posted, rows: Sequence[dict[str, Any]]) -> None:
        """No job ends unsent without a cause that the client knows."""

        def has_cause(row: dict[str, Any]) -> bool:
            match row["status"]:
                case "cancelled":
                    return posted.cancelled_at is not None
                case "expired":
                    return posted.expires_at is not None
                case "suppressed":
                    return str(row["recipient_email"]).startswith("bounce")
                case "failed":
                    return row["error_class"] not in _VANISHED
            return True

        odd = [f"{row['job_id']} {row['status']} {row['error_class']}" for row in rows if not has_cause(row)]
        self.checks.none("G1", odd, len(rows), "jobs that ended unsent without a cause")

    def check_times(
        self,
        posted: Posted,
        rows: Sequence[dict[str, Any]],
        delivered: dict[str, list[Delivery]],
        granted: Counter[str],
    ) -> None:
        """No job is begun after its blast's cancellation was answered, or after its end."""
        ends_at = min(posted.cancelled_at or math.inf, posted.expires_at or math.inf) + _LONGEST_SEND_S
        late = [
            f"{row['job_id']} at {taken[-1].at:.3f}, its end {ends_at:.3f}"
            for row in rows
            if (taken := delivered.get(row["job_id"])) and taken[-1].at > ends_at and not granted[row["job_id"]]
        ]
        self.checks.none("G3", late, len(rows), "jobs sent after they were cancelled or had expired")

    def check_promises(self, delivered: dict[str, list[Delivery]]) -> None:
        """No message is delivered that no accepted blast requested."""
        if any(not posted.blast_id and not posted.refused for posted in self.world.client.posted):
            return  # a blast is still unanswered: its promise is not known yet
        promised = {job for posted in self.world.client.posted if posted.blast_id for job in posted.job_ids}
        strangers = [job for job in delivered if job not in promised]
        self.checks.none("G2", strangers, len(delivered), "jobs delivered that no accepted blast requested")
        unknown = [delivery.address for delivery in self.world.deliveries.nameless]
        self.checks.none("G2", unknown, len(unknown), "numbers written to that no accepted blast asked for")

    def _story(self, job_id: str, delivered: dict[str, list[Delivery]]) -> list[str]:
        """Return what the provider accepted and every service logged for a job."""
        lines = self.world.log_folder.joinpath("combined.log").read_text().splitlines()
        about = [line for line in lines if job_id in line or any(word in line for word in _TELLING)]
        told = [line if job_id in line else line.partition(":")[0] for line in self.told]
        stood = [f"the test itself stood still until {at:.3f} for {for_s:.1f} s" for at, for_s in self.world.stalls]
        return [f"--- {job_id}", *map(str, delivered.get(job_id, [])), *told, *stood, *about[-_MOST_LINES:]]

    async def _check_counts(self, posted: Posted, rows: Sequence[dict[str, Any]]) -> None:
        """The blast's counts in Redis add up to its total and equal the log's."""
        blast = await self.world.client.blast(posted.blast_id)
        for channel in posted.channels:
            counts = {name: n for name, n in blast["channels"][channel]["counts"].items() if n}
            logged = dict(Counter(row["status"] for row in rows if row["channel"] == channel))
            total = len(posted.recipients)
            self.checks.that("G4", sum(counts.values()) == total, f"{counts} does not add up to {total}")
            # a job that ended only on a lost master may have ended in another way on its replica, unknown to the log
            twice = {job_id for lost in self.failovers for job_id in lost.ended if job_id in posted.job_ids}
            apart = sum(abs(counts.get(name, 0) - logged.get(name, 0)) for name in TERMINAL) // 2
            may_be = sum(job_id.endswith(f":{channel}") for job_id in twice)
            self.checks.that("G5", apart <= may_be, f"the queue says {counts}, the log {logged}; {may_be} may differ")


_TALLIES = {"message_counts": "channel, status", "blast_counts": "blast_id, channel, status"}


def _counts(database: sqlite3.Connection, query: str) -> dict[tuple[str, ...], int]:
    return {tuple(row[:-1]): row[-1] for row in database.execute(query) if row[-1]}
