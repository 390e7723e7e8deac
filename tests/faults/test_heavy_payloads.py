"""Messages of a megabyte each, all different, through a sender that is killed in mid-send.

Attacks G1 (nothing lost), G2, G4 (counts are right), G7 (files, entries and memory are freed with their jobs).
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from shared.settings import Rate
from tests.faults.acts import flowing, kill_holding
from tests.faults.checks import Checks
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 90.0
_RECIPIENTS, _A_POST = 300, 25
_SIZE = 1_000_000
_ROOM = 16_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two email senders."""
    async with running(form, Design(email_senders=2)) as world:
        yield world


def _heavy(count: int, label: str) -> list[dict[str, Any]]:
    """Recipients, each with a unique file of a megabyte."""
    found = people(count, label)
    for recipient in found:
        content = base64.b64encode(recipient["email"].encode().ljust(100) * (_SIZE // 100)).decode()
        recipient["attachments"] = [{"filename": "bill.pdf", "contentType": "application/pdf", "content": content}]
    return found


async def test_heavy_payloads(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4, G7: all arrive, the counts are right, and Redis's memory returns to where it was."""
    redis: Any = world.queue.redis
    before = int((await redis.info("memory"))["used_memory"])
    await world.queue.control.set_rate("email", Rate.parse("40/1s"))
    await world.queue.control.pause_channel("email", "until all are accepted, however long that takes")
    async with world.queue.watching(checks):
        posted = [
            await world.client.post(_heavy(_A_POST, f"heavy{number}")) for number in range(_RECIPIENTS // _A_POST)
        ]
        await world.queue.control.resume_channel("email")
        await flowing(world, posted[0], 5)
        await kill_holding(world, world.senders[0], oracle, buffered=True, in_flight=True, timeout_s=_PATIENCE_S)
        await world.queue.control.set_rate("email", None)
        await oracle.audit(posted, _PATIENCE_S)

    async def all_gone() -> bool:
        files = [key async for key in redis.scan_iter("{email}:file*", count=1000)]
        return not files and int((await redis.info("memory"))["used_memory"]) < before + _ROOM

    await wait_for(all_gone, _PATIENCE_S, "files and memory to go")
    await world.restart("email_sender")
    await oracle.audit_database()
    await oracle.audit_leftovers()
