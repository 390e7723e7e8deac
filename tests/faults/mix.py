"""A random mix of faults: draws one after the other and commits it while blasts of every kind are under way.

Here are the faults of every world, and the run itself; a test adds the faults of its own world.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing

from tests.faults.acts import freeze, kill
from tests.faults.checks import Checks
from tests.faults.client import Posted, people
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.world import World

PATIENCE_S = 120.0
CUT_OFF_LEASES = 0.7
"""After a silence of this many leases a sender's own may have lapsed: the last renewal may be a fifth of one old."""
_THOUSANDS = 2000
_TROUBLE = [
    ("451 4.3.0 try again later", "rcpt"), ("451 4.3.0 try again later", "data"), ("421 4.3.2 shutting down", "mail"),
    ("421 4.3.2 shutting down", "greeting"),
]  # fmt: skip

Fault = Callable[[], Awaitable[None]]


class Mix:
    """Draws one fault after the other and commits it; the world has several email senders with mail proxies.

    `faults` are drawn from, some of them more often than others; nothing is committed beside those in `alone`.
    """

    def __init__(self, world: World, oracle: Oracle) -> None:
        self.world = world
        self.oracle = oracle
        self.load = Load(world, oracle, world.form.seed + 1)
        self.random = random.Random(world.form.seed)
        self.committed: list[str] = []
        self.faults: list[Fault] = [
            self.kill_sender,
            self.kill_sender,
            self.kill_sender_before_thousands,
            self.freeze_sender,
            self.freeze_sender_past_its_lease,
            self.restart_sender,
            self.kill_ingest,
            self.kill_logger,
            self.stop_logger,
            self.lock_the_database,
            self.fill_the_disk,
            self.lose_answers,
            self.hang_in_data,
            self.refuse_mail,
            self.answer_later,
            self.answer_slowly,
            self.be_in_trouble,
            self.drop_at_data,
            self.answer_503,
        ]
        self.alone: set[Fault] = {self.kill_ingest, self.kill_logger, self.stop_logger, self.lock_the_database}

    async def commit(self) -> None:
        """Commit one fault, sometimes with a second beside it, and heal it."""
        fault = self.random.choice(self.faults)
        beside = self.random.choice([None, None, None, self.kill_ingest, self.kill_logger, self.lock_the_database])
        await self.commit_both(fault, None if fault in self.alone else beside)

    async def commit_both(self, fault: Fault, beside: Fault | None = None) -> None:
        """Commit a fault and another one beside it, and note when."""
        began = time.time()
        if beside is None:
            await fault()
        else:
            await asyncio.gather(fault(), beside())
        self.committed.append(f"{began:.3f}-{time.time():.3f} {_name(fault)} {_name(beside)}")

    async def run(self, checks: Checks, duration_s: float, first: Sequence[Fault] = ()) -> list[Posted]:
        """Commit faults for a time, `first` before others; audit every blast once it has ended; return them."""
        waiting = list(first)
        async with self.world.queue.watching(checks):
            ends_at = time.monotonic() + duration_s
            loading = asyncio.create_task(self.load.run())
            while time.monotonic() < ends_at:
                assert not loading.done(), loading.exception()
                await (self.commit_both(waiting.pop(0)) if waiting else self.commit())
                await asyncio.sleep(self.random.uniform(0, 4 * self.world.form.scale))
            self.load.done.set()
            await loading
            healed_at = time.monotonic()
            again = await self.world.client.post(people(50, "healed"), priority=0)
            await self.oracle.within(lambda: not self.world.deliveries.missing(again.job_ids), PATIENCE_S)
            took_s, last = time.monotonic() - healed_at, self.committed[-5:]
            limit_s = self.world.form.dead_sender_s
            checks.that("G7", took_s < limit_s, f"work flowed again {took_s:.1f} s after the last of {last}")
            blasts = [*self.load.blasts, again]
            await self.oracle.audit(blasts, PATIENCE_S)
        return blasts

    async def conclude(self, checks: Checks) -> None:
        """Audit what is left once everything has ended."""
        await self.oracle.audit_database()
        await self.oracle.audit_leftovers()
        if checks.violations:
            checks.stories += self.committed

    def words(self) -> str:
        """Return what was done."""
        return f"{len(self.committed)} faults, {sum(blast.total for blast in self.load.blasts)} messages"

    async def kill_sender(self) -> None:
        name = self.a_sender()
        await kill(self.world, self.world.children[name], self.oracle)
        await self.world.restart(name)

    async def kill_sender_before_thousands(self) -> None:
        """Its jobs in mid-send must not wait behind all of them."""
        self.load.blasts.append(await self.world.client.post(people(_THOUSANDS, "thousands")))
        await self.kill_sender()

    async def freeze_sender(self) -> None:
        """Too short for its lease to lapse: nothing may be sent twice, unless the test itself stands still."""
        child = self.world.children[self.a_sender()]
        began = time.monotonic()
        held = await freeze(self.world, child)
        await asyncio.sleep(self.world.form.lease_s * 0.3)
        child.thaw()
        if time.monotonic() - began > self.world.form.lease_s * CUT_OFF_LEASES:
            self.oracle.allow(held.in_flight)

    async def freeze_sender_past_its_lease(self) -> None:
        child = self.world.children[self.a_sender()]
        self.oracle.allow((await freeze(self.world, child)).in_flight)
        await asyncio.sleep(self.world.form.lease_s * self.random.uniform(1.0, 3.0))
        child.thaw()

    async def restart_sender(self) -> None:
        name = self.a_sender()
        await self.world.children[name].stop()
        await self.world.restart(name)

    async def kill_ingest(self) -> None:
        self.world.children["ingest"].kill()
        await self.world.restart("ingest")

    async def kill_logger(self) -> None:
        self.world.children["logger"].kill()
        await self.world.restart("logger")

    async def stop_logger(self) -> None:
        """Everything else continues; its events wait."""
        assert await self.world.children["logger"].stop() == 0
        await self.some_seconds(20.0)
        await self.world.restart("logger")

    async def lock_the_database(self) -> None:
        with closing(sqlite3.connect(self.world.database, isolation_level=None, check_same_thread=False)) as intruder:
            intruder.execute("PRAGMA busy_timeout = 10000")
            await asyncio.to_thread(intruder.execute, "BEGIN IMMEDIATE")
            await asyncio.sleep(self.world.form.seconds(self.random.uniform(1.0, 30.0)))
            intruder.execute("ROLLBACK")

    async def fill_the_disk(self) -> None:
        logger = self.world.children["logger"]
        logger.limit_files(1)
        await asyncio.sleep(self.world.form.seconds(self.random.uniform(1.0, 10.0)))
        logger.limit_files(None)

    async def lose_answers(self) -> None:
        """The provider accepts a few messages and its answers are lost; each may be sent once more."""
        mail = self.world.mails[self.a_sender()]
        mail.hang_after_data = 3
        await asyncio.sleep(2)
        mail.heal()

    async def hang_in_data(self) -> None:
        """Only half of a message gets through: it is not accepted, so it may be sent again."""
        mail = self.world.mails[self.a_sender()]
        mail.hang_in_data = True
        await asyncio.sleep(1)
        mail.heal()

    async def refuse_mail(self) -> None:
        mail = self.world.mails[self.a_sender()]
        mail.refuse()
        await asyncio.sleep(self.world.form.seconds(self.random.uniform(1.0, 8.0)))
        mail.heal()

    async def answer_later(self) -> None:
        answer = self.random.choice(["421 4.3.2 going down", "451 4.3.0 try again", "450 4.2.2 mailbox full"])
        fault = {"channel": "email", "answer": answer, "times": 20, "seconds": 3}
        await self.world.sandbox("PUT", "/faults", fault)
        await asyncio.sleep(1)
        await self.world.sandbox("DELETE", "/faults")

    async def answer_slowly(self) -> None:
        """Within the time-outs: no sender may be reaped."""
        await self.world.sandbox("PUT", "/faults", {"channel": "email", "answer": "slow", "seconds": 5, "delayMs": 500})
        await asyncio.sleep(5)
        await self.world.sandbox("DELETE", "/faults")

    async def be_in_trouble(self) -> None:
        """A mail server that defers every message."""
        answer, stage = self.random.choice(_TROUBLE)
        await self.world.sandbox("PUT", "/faults", {"channel": "email", "answer": answer, "at": stage})
        await self.some_seconds(20.0)
        await self.world.sandbox("DELETE", "/faults")

    async def drop_at_data(self) -> None:
        """A mail server that drops the connection before the message."""
        for mail in self.world.mails.values():
            mail.drop_at_data = True
        await self.some_seconds(20.0)
        for mail in self.world.mails.values():
            mail.heal()

    async def answer_503(self) -> None:
        """A WhatsApp gateway that is away."""
        await self.world.sandbox("PUT", "/faults", {"channel": "whatsapp", "answer": "http 503"})
        await self.some_seconds(20.0)
        await self.world.sandbox("DELETE", "/faults")

    async def some_seconds(self, most: float) -> None:
        """Wait for a random time."""
        await asyncio.sleep(self.world.form.seconds(self.random.uniform(1.0, most)))

    def a_sender(self) -> str:
        """Draw an email sender."""
        return self.random.choice([sender.name for sender in self.world.senders])


def _name(fault: object) -> str:
    return str(getattr(fault, "__name__", ""))
