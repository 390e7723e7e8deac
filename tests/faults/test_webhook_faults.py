"""Every service is killed in turn while endpoints fail in every way: the client misses no event (attacks G9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.acts import kill
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.webhook_client import ENV, FAILURES, WebhookClient
from tests.faults.world import Design, World, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 120.0
_VICTIMS = ("webhook_sender", "logger", "redis", "ingest", "webhook_sender", "email_sender", "redis", "logger")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """One sender of mail and one of webhooks, with nothing between them and Redis."""
    async with running(form, Design(env=ENV)) as world:
        yield world


async def test_no_event_is_missed(world: World, oracle: Oracle) -> None:
    """G1 to G5, G9: a kill for each way to fail, with a blast under way; then nothing listens for a while."""
    webhooks, blasts = WebhookClient(oracle), []
    async with webhooks.registered():
        for failure, victim in zip(FAILURES, _VICTIMS, strict=True):
            webhooks.failing = failure
            blasts.append(await world.client.post(people(60, "webhooks") + people(3, "webhooks", simulate="bounce")))
            failed = await oracle.within(lambda: webhooks.failed[failure] > 0, _PATIENCE_S)  # noqa: B023 -- awaited here
            assert failed, (failure, webhooks.failed)
            if victim == "redis":
                world.redis.kill()
                await asyncio.to_thread(world.redis.start)
            elif victim == "email_sender":
                await kill(world, world.children[victim], oracle)
                await world.restart(victim)
            else:
                world.children[victim].kill()
                await world.restart(victim)
        webhooks.failing = ""
        await webhooks.go_away()
        blasts.append(await world.client.post(people(200, "away")))
        await asyncio.sleep(world.form.seconds(20.0))
        await webhooks.come_back()
        await oracle.audit(blasts, _PATIENCE_S)
        await webhooks.audit(blasts)
    assert set(webhooks.failed) == set(FAILURES), webhooks.failed
    await oracle.audit_database()
    await oracle.audit_leftovers()
