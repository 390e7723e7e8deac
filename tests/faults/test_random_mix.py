"""A seeded random mix of all faults over one system under load; the oracle checks everything at the end.

Attacks G1 to G5, G7 and G9 with unforeseen combinations. The seed is printed with the table of guarantees.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.faults.acts import freeze, kill
from tests.faults.checks import Checks
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.load import LIMITED, Load
from tests.faults.oracle import Oracle
from tests.faults.webhook_client import ENV as WEBHOOK_ENV
from tests.faults.webhook_client import FAILURES, WebhookClient
from tests.faults.world import Design, World, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 120.0
# after a silence of this many leases a sender's own may have lapsed: the last renewal may be a fifth of one old
_CUT_OFF_LEASES = 0.7
_THOUSANDS = 2000
_TROUBLE = [
    ("451 4.3.0 try again later", "rcpt"), ("451 4.3.0 try again later", "data"), ("421 4.3.2 shutting down", "mail"),
    ("421 4.3.2 shutting down", "greeting"),
]  # fmt: skip
_SERVICES = frozenset(
    {"ingest", "email_sender", "email_sender-2", "email_sender-3", "whatsapp_sender", "webhook_sender", "logger"}
)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[1, pytest.param(4, marks=pytest.mark.soak)],
    ids=["one partition", "four partitions"],
)
async def world(form: Form, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Three senders with a proxy on each side; every service reaches Redis, which has a replica, through a proxy.

    Services that use Sentinels bypass every proxy, and a dead master would be replaced instead of restarted:
    failovers have their own world (`test_replicas.py`).
    """
    env = {"KURIR_SANDBOX_LATENCY_MS": "10", "KURIR_EMAIL_DOMAIN_RATES": f"{LIMITED}=100/1s", **WEBHOOK_ENV}
    design = Design(3, whatsapp=True, proxied=_SERVICES, mail_proxy=True, mail_timeout_s=5.0, env=env, replica=True)
    design = replace(design, partitions=request.param)
    async with running(form, design) as world:
        yield world


class Mix:
    """Draws one fault after the other and commits it."""

    def __init__(self, world: World, oracle: Oracle, load: Load, webhooks: WebhookClient) -> None:
        self._world = world
        self._webhooks = webhooks
        self._oracle = oracle
        self._load = load
        self.random = random.Random(world.form.seed)
        self.committed: list[str] = []
        self._faults: list[Callable[[], Awaitable[None]]] = [
            self.kill_sender,
            self.kill_sender,
            self.kill_sender_before_thousands,
            self.freeze_sender,
            self.freeze_sender_past_its_lease,
            self.restart_sender,
            self.kill_ingest,
            self.kill_logger,
            self.stop_logger,
            self.kill_redis,
            self.restart_replica,
            self.lose_replies,
            self.reset_connections,
            self.silence_a_service,
            self.flush_scripts,
            self.kill_clients,
            self.pause_clients,
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
            self.kill_webhook_sender,
            self.send_webhooks_nowhere,
            self.refuse_webhooks,
            self.refuse_webhooks,
        ]
        self._lonely = {self.kill_ingest, self.kill_logger, self.stop_logger, self.lock_the_database}

    async def commit(self) -> None:
        """Commit one fault, sometimes with a second beside it, and heal it."""
        fault = self.random.choice(self._faults)
        beside = self.random.choice([None, None, None, self.kill_ingest, self.kill_logger, self.lock_the_database])
        began = time.time()
        if beside is None or fault in self._lonely:
            await fault()
        else:
            await asyncio.gather(fault(), beside())
        self.committed.append(f"{began:.3f}-{time.time():.3f} {_name(fault)} {_name(beside)}")

    async def kill_sender(self) -> None:
        name = self._sender()
        await kill(self._world, self._world.children[name], self._oracle)
        await self._world.restart(name)

    async def kill_sender_before_thousands(self) -> None:
        """Its jobs in mid-send must not wait behind all of them."""
        self._load.blasts.append(await self._world.client.post(people(_THOUSANDS, "thousands")))
        await self.kill_sender()

    async def freeze_sender(self) -> None:
        """Too short for its lease to lapse: nothing may be sent twice."""
        child = self._world.children[self._sender()]
        child.freeze()
        await asyncio.sleep(self._world.form.lease_s * 0.3)
        child.thaw()

    async def freeze_sender_past_its_lease(self) -> None:
        child = self._world.children[self._sender()]
        self._oracle.allow((await freeze(self._world, child)).in_flight)
        await asyncio.sleep(self._world.form.lease_s * self.random.uniform(1.0, 3.0))
        child.thaw()

    async def restart_sender(self) -> None:
        name = self._sender()
        await self._world.children[name].stop()
        await self._world.restart(name)

    async def kill_ingest(self) -> None:
        self._world.children["ingest"].kill()
        await self._world.restart("ingest")

    async def kill_logger(self) -> None:
        self._world.children["logger"].kill()
        await self._world.restart("logger")

    async def stop_logger(self) -> None:
        """Everything else continues; its events wait."""
        assert await self._world.children["logger"].stop() == 0
        await self._some_seconds(20.0)
        await self._world.restart("logger")

    async def restart_replica(self) -> None:
        """The master takes no writes without its replica."""
        servers = self._world.servers
        await asyncio.to_thread(servers.master.command, "CONFIG", "SET", "min-replicas-to-write", "1")
        await asyncio.to_thread(servers.replica.stop)
        await self._some_seconds(20.0)
        await servers.start_replica()
        await asyncio.to_thread(servers.master.command, "CONFIG", "SET", "min-replicas-to-write", "0")

    async def kill_redis(self) -> None:
        self._world.redis.kill()
        await asyncio.sleep(self._world.form.seconds(self.random.choice([1.0, 10.0])))
        await asyncio.to_thread(self._world.redis.start)

    async def lose_replies(self) -> None:
        for proxy in self._world.redis_proxies.values():
            for script in ("enqueue", "fetch", "begin", "settle", "ack_late", "reap", "find_dead", "heartbeat"):
                proxy.lose_reply(script, self.random.randrange(3))
        await asyncio.sleep(1)

    async def reset_connections(self) -> None:
        for _ in range(5):
            for proxy in self._world.redis_proxies.values():
                proxy.cut_all()
            await asyncio.sleep(0.1)

    async def silence_a_service(self) -> None:
        name = self.random.choice(sorted(_SERVICES))
        proxy, child = self._world.redis_proxies[name], self._world.children[name]
        leases = self.random.uniform(0.5, 2.5)
        proxy.silence()
        await asyncio.sleep(0.1)
        if leases > _CUT_OFF_LEASES:
            self._oracle.allow((await self._world.queue.holding(child.pid)).in_flight)
        await asyncio.sleep(self._world.form.lease_s * leases)
        proxy.heal()

    async def flush_scripts(self) -> None:
        await asyncio.to_thread(self._world.redis.command, "SCRIPT", "FLUSH", "SYNC")

    async def kill_clients(self) -> None:
        await asyncio.to_thread(self._world.redis.command, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def pause_clients(self) -> None:
        await asyncio.to_thread(self._world.redis.command, "CLIENT", "PAUSE", "500", "ALL")

    async def lock_the_database(self) -> None:
        with closing(sqlite3.connect(self._world.database, isolation_level=None, check_same_thread=False)) as intruder:
            intruder.execute("PRAGMA busy_timeout = 10000")
            await asyncio.to_thread(intruder.execute, "BEGIN IMMEDIATE")
            await asyncio.sleep(self._world.form.seconds(self.random.uniform(1.0, 30.0)))
            intruder.execute("ROLLBACK")

    async def fill_the_disk(self) -> None:
        logger = self._world.children["logger"]
        logger.limit_files(1)
        await asyncio.sleep(self._world.form.seconds(self.random.uniform(1.0, 10.0)))
        logger.limit_files(None)

    async def lose_answers(self) -> None:
        """The provider accepts a few messages and its answers are lost; each may be sent once more."""
        mail = self._world.mails[self._sender()]
        mail.hang_after_data = 3
        await asyncio.sleep(2)
        mail.heal()

    async def hang_in_data(self) -> None:
        """Only half of a message gets through: it is not accepted, so it may be sent again."""
        mail = self._world.mails[self._sender()]
        mail.hang_in_data = True
        await asyncio.sleep(1)
        mail.heal()

    async def refuse_mail(self) -> None:
        mail = self._world.mails[self._sender()]
        mail.refuse()
        await asyncio.sleep(self._world.form.seconds(self.random.uniform(1.0, 8.0)))
        mail.heal()

    async def answer_later(self) -> None:
        answer = self.random.choice(["421 4.3.2 going down", "451 4.3.0 try again", "450 4.2.2 mailbox full"])
        fault = {"channel": "email", "answer": answer, "times": 20, "seconds": 3}
        await self._world.sandbox("PUT", "/faults", fault)
        await asyncio.sleep(1)
        await self._world.sandbox("DELETE", "/faults")

    async def answer_slowly(self) -> None:
        """Within the time-outs: no sender may be reaped."""
        await self._world.sandbox(
            "PUT", "/faults", {"channel": "email", "answer": "slow", "seconds": 5, "delayMs": 500}
        )
        await asyncio.sleep(5)
        await self._world.sandbox("DELETE", "/faults")

    async def be_in_trouble(self) -> None:
        """A mail server that defers every message."""
        answer, stage = self.random.choice(_TROUBLE)
        await self._world.sandbox("PUT", "/faults", {"channel": "email", "answer": answer, "at": stage})
        await self._some_seconds(20.0)
        await self._world.sandbox("DELETE", "/faults")

    async def drop_at_data(self) -> None:
        """A mail server that drops the connection before the message."""
        for mail in self._world.mails.values():
            mail.drop_at_data = True
        await self._some_seconds(20.0)
        for mail in self._world.mails.values():
            mail.heal()

    async def answer_503(self) -> None:
        """A WhatsApp gateway that is away."""
        await self._world.sandbox("PUT", "/faults", {"channel": "whatsapp", "answer": "http 503"})
        await self._some_seconds(20.0)
        await self._world.sandbox("DELETE", "/faults")

    async def kill_webhook_sender(self) -> None:
        self._world.children["webhook_sender"].kill()
        await self._world.restart("webhook_sender")

    async def send_webhooks_nowhere(self) -> None:
        """Nothing listens where the webhooks lead."""
        await self._webhooks.go_away()
        await self._some_seconds(20.0)
        await self._webhooks.come_back()

    async def refuse_webhooks(self) -> None:
        """The endpoints redirect, refuse, fail, ask to wait, break off or hang."""
        self._webhooks.failing = self.random.choice(FAILURES)
        await self._some_seconds(20.0)
        self._webhooks.failing = ""

    async def _some_seconds(self, most: float) -> None:
        await asyncio.sleep(self._world.form.seconds(self.random.uniform(1.0, most)))

    def _sender(self) -> str:
        return self.random.choice([sender.name for sender in self._world.senders])


def _name(fault: object) -> str:
    return str(getattr(fault, "__name__", ""))


async def test_random_mix_of_faults(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1 to G5, G7, G9: random faults in random order, while blasts are posted, paused and cancelled."""
    load, webhooks = Load(world, oracle, world.form.seed + 1), WebhookClient(oracle)
    mix = Mix(world, oracle, load, webhooks)
    async with webhooks.registered(), world.queue.watching(checks):
        ends_at = time.monotonic() + world.form.mix_s
        loading = asyncio.create_task(load.run())
        while time.monotonic() < ends_at:
            assert not loading.done(), loading.exception()
            await mix.commit()
            await asyncio.sleep(mix.random.uniform(0, 4 * world.form.scale))
        load.done.set()
        await loading
        healed_at = time.monotonic()
        again = await world.client.post(people(50, "healed"), priority=0)
        await oracle.within(lambda: not world.deliveries.missing(again.job_ids), _PATIENCE_S)
        took_s = time.monotonic() - healed_at
        limit_s = world.form.dead_sender_s
        checks.that("G7", took_s < limit_s, f"work flowed again {took_s:.1f} s after the last of {mix.committed[-5:]}")
        await oracle.audit([*load.blasts, again], _PATIENCE_S)
        await webhooks.audit([*load.blasts, again])
    await oracle.audit_database()
    await oracle.audit_leftovers()
    if checks.violations:
        checks.stories += mix.committed
    messages = sum(blast.total for blast in load.blasts)
    print(f"{len(mix.committed)} faults, {messages} messages, {webhooks.failed.total()} webhook requests failed")  # noqa: T201 -- for pytest -s
