"""A failover of Redis while a blast is enqueued: what the new master lacks is enqueued again, exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from services.ingest.blasts.duplicates import Places
from services.ingest.blasts.enqueueing import Enqueueing
from services.ingest.blasts.recipients import Accepted
from services.ingest.http.gateway import Queue
from services.ingest.storage.availability import BacklogRoom
from shared.blasts import Blast
from shared.clock import SystemClock
from shared.errors import QueueUnavailableError
from shared.queue.acceptance import Acceptance
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.control import Control
from shared.queue.partitions import Partition
from shared.queue.producer import Chunk, Enqueued, Producer
from shared.queue.receipts import ReceiptInbox
from shared.queue.suppressions import Suppressions
from shared.templates import Template
from tests.integration.ingest.test_blasts import queued

_BLOCK, _BLOCKS = 250, 8
_COUNT = _BLOCK * _BLOCKS


class Failover(Producer):
    """A producer for which another Redis, without any data of the blast, takes over before each of the given calls.

    `noticed`: the call finds its connection broken, as it does unless the pool has already replaced it.
    """

    def __init__(self, redis: Redis, before: set[int], *, noticed: bool) -> None:
        super().__init__(redis, "test")
        self._server = redis
        self._before = before
        self._noticed = noticed
        self.calls = 0

    async def enqueue(self, chunk: Chunk, partition: Partition | None = None) -> Enqueued:
        call, self.calls = self.calls, self.calls + 1
        if call in self._before:
            await self._server.flushall()
            if self._noticed:
                raise QueueUnavailableError("connection lost")
        return await super().enqueue(chunk, partition)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the queue's own server, Valkey and Redis."""
    client = connect(redis_url)
    yield client
    await client.aclose()


def _blast() -> Blast:
    template = Template(id="otp", name="otp", channels=["email"], subject="s", text="{{ name }}")
    return Blast("f" * 16, template, ["email"], "bulk", 1_700_000_000_000, {"email": _COUNT}, _COUNT)


def _blocks() -> list[list[Accepted]]:
    people = [Accepted(number, f"Person {number}", [f"person{number}@example.com"]) for number in range(_COUNT)]
    return [people[first : first + _BLOCK] for first in range(0, _COUNT, _BLOCK)]


def _enqueueing(redis: Redis, producer: Producer) -> Enqueueing:
    clock = SystemClock()
    room = BacklogRoom(producer, clock)
    inbox, acceptance = ReceiptInbox(redis), Acceptance(redis, "test")
    blasts, control = BlastStore(redis, "test"), Control(redis, "test")
    queue = Queue(producer, blasts, control, Suppressions(redis), room, inbox, acceptance)
    return Enqueueing(queue, clock, _blast())


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unseen"])
@pytest.mark.parametrize("before", [{1}, {3}, {1, 4}], ids=["after the first chunk", "before the last", "twice"])
async def test_forgotten_chunks_are_enqueued_again(redis: Redis, before: set[int], noticed: bool) -> None:
    """G1, G2: confirmed chunks that are gone are added again, each job once, with the snapshot they need."""
    await BlastStore(redis, "test").create(_blast())
    await _enqueueing(redis, Failover(redis, before, noticed=noticed)).run(_blocks, Places(), fresh=True)
    await _check_whole(redis)


async def test_forgotten_snapshot_is_stored_again(redis: Redis) -> None:
    """G1: the failover came between the snapshot and the first chunk, whose jobs would end as `blast_gone`."""
    await BlastStore(redis, "test").create(_blast())
    await _enqueueing(redis, Failover(redis, {0}, noticed=True)).run(_blocks, Places(), fresh=True)
    await _check_whole(redis)


async def test_redis_that_keeps_forgetting_is_unavailable(redis: Redis) -> None:
    """The client is asked to try again, and its key continues where this request stopped."""
    producer = Failover(redis, set(range(1, 100)), noticed=False)
    with pytest.raises(QueueUnavailableError):
        await _enqueueing(redis, producer).run(_blocks, Places(), fresh=True)


async def _check_whole(redis: Redis) -> None:
    jobs = Counter(job.index for job in await queued(redis))
    assert jobs == Counter(range(_COUNT))
    assert await BlastStore(redis, "test").load("f" * 16) is not None
    progress = await BlastStore(redis, "test").progress("f" * 16)
    assert progress is not None
    assert progress.channels["email"].enqueued == _COUNT
