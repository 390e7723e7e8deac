"""A seeded random mix of all faults over one system under load; the oracle checks everything at the end.

Attacks G1 to G5, G7 and G9 with unforeseen combinations. The seed is printed with the table of guarantees.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.faults.checks import Checks
from tests.faults.form import Form
from tests.faults.load import LIMITED
from tests.faults.mix import CUT_OFF_LEASES, Mix
from tests.faults.oracle import Oracle
from tests.faults.webhook_client import ENV as WEBHOOK_ENV
from tests.faults.webhook_client import FAILURES, WebhookClient
from tests.faults.world import Design, World, running
from tests.unit.email_sender.keys import pem, rsa_key

pytestmark = pytest.mark.asyncio(loop_scope="module")
_SERVICES = frozenset(
    {"ingest", "email_sender", "email_sender-2", "email_sender-3", "whatsapp_sender", "webhook_sender", "logger"}
)
_SIGNING = {
    "KURIR_DKIM_DOMAIN": "example.com",
    "KURIR_DKIM_SELECTOR": "s1",
    "KURIR_DKIM_PRIVATE_KEY": pem(rsa_key(1024)),
}


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
    env = {"KURIR_SANDBOX_LATENCY_MS": "10", "KURIR_EMAIL_DOMAIN_RATES": f"{LIMITED}=100/1s", **WEBHOOK_ENV, **_SIGNING}
    design = Design(3, whatsapp=True, proxied=_SERVICES, mail_proxy=True, mail_timeout_s=5.0, env=env, replica=True)
    design = replace(design, partitions=request.param)
    async with running(form, design) as world:
        yield world


class ServerMix(Mix):
    """The faults of a world with one server, proxies before it, and webhooks."""

    def __init__(self, world: World, oracle: Oracle, webhooks: WebhookClient) -> None:
        super().__init__(world, oracle)
        self._webhooks = webhooks
        self.faults += [
            self.kill_sender,
            self.kill_signers,
            self.restart_replica,
            self.kill_redis,
            self.lose_replies,
            self.reset_connections,
            self.silence_a_service,
            self.flush_scripts,
            self.kill_clients,
            self.pause_clients,
            self.kill_webhook_sender,
            self.send_webhooks_nowhere,
            self.refuse_webhooks,
            self.refuse_webhooks,
        ]

    async def kill_signers(self) -> None:
        """The processes that sign for a sender; it signs without them until it has started others."""
        for process in self.world.children[self.a_sender()].process.children():
            process.kill()
        await asyncio.sleep(self.world.form.seconds(1.0))

    async def restart_replica(self) -> None:
        """The master takes no writes without its replica."""
        servers = self.world.servers
        await asyncio.to_thread(servers.master.command, "CONFIG", "SET", "min-replicas-to-write", "1")
        await asyncio.to_thread(servers.replica.stop)
        await self.some_seconds(20.0)
        await servers.start_replica()
        await asyncio.to_thread(servers.master.command, "CONFIG", "SET", "min-replicas-to-write", "0")

    async def kill_redis(self) -> None:
        self.world.redis.kill()
        await asyncio.sleep(self.world.form.seconds(self.random.choice([1.0, 10.0])))
        await asyncio.to_thread(self.world.redis.start)

    async def lose_replies(self) -> None:
        for proxy in self.world.redis_proxies.values():
            for script in ("enqueue", "fetch", "begin", "settle", "ack_late", "reap", "find_dead", "heartbeat"):
                proxy.lose_reply(script, self.random.randrange(3))
        await asyncio.sleep(1)

    async def reset_connections(self) -> None:
        for _ in range(5):
            for proxy in self.world.redis_proxies.values():
                proxy.cut_all()
            await asyncio.sleep(0.1)

    async def silence_a_service(self) -> None:
        name = self.random.choice(sorted(_SERVICES))
        proxy, child = self.world.redis_proxies[name], self.world.children[name]
        leases = self.random.uniform(0.5, 2.5)
        began = time.monotonic()
        proxy.silence()
        await asyncio.sleep(0.1)
        held = await self.world.queue.holding(child.pid)
        await asyncio.sleep(self.world.form.lease_s * leases)
        proxy.heal()
        # by the clock, not by what was drawn: the test itself may have stood still
        if time.monotonic() - began > self.world.form.lease_s * CUT_OFF_LEASES:
            self.oracle.allow(held.in_flight)

    async def flush_scripts(self) -> None:
        await asyncio.to_thread(self.world.redis.command, "SCRIPT", "FLUSH", "SYNC")

    async def kill_clients(self) -> None:
        await asyncio.to_thread(self.world.redis.command, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def pause_clients(self) -> None:
        await asyncio.to_thread(self.world.redis.command, "CLIENT", "PAUSE", "500", "ALL")

    async def kill_webhook_sender(self) -> None:
        self.world.children["webhook_sender"].kill()
        await self.world.restart("webhook_sender")

    async def send_webhooks_nowhere(self) -> None:
        """Nothing listens where the webhooks lead."""
        await self._webhooks.go_away()
        await self.some_seconds(20.0)
        await self._webhooks.come_back()

    async def refuse_webhooks(self) -> None:
        """The endpoints redirect, refuse, fail, ask to wait, break off or hang."""
        self._webhooks.failing = self.random.choice(FAILURES)
        await self.some_seconds(20.0)
        self._webhooks.failing = ""


async def test_random_mix_of_faults(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1 to G5, G7, G9: random faults in random order, while blasts are posted, paused and cancelled."""
    webhooks = WebhookClient(oracle)
    mix = ServerMix(world, oracle, webhooks)
    async with webhooks.registered():
        await webhooks.audit(await mix.run(checks, world.form.mix_s))
    await mix.conclude(checks)
    print(f"{mix.words()}, {webhooks.failed.total()} webhook requests failed")  # noqa: T201 -- for pytest -s
