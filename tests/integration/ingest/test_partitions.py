"""Blasts are spread over the partitions of each channel's queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.jobs import unpack_job
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.partitions import partitions
from tests.integration.ingest.conftest import StartIngest
from tests.integration.ingest.running import Api, open_api, person
from tests.integration.ingest.test_blasts import BLAST


@pytest.fixture
async def api(valkey_url: str, start_ingest: StartIngest) -> AsyncIterator[Api]:
    """An ingest whose queue has four partitions."""
    assert valkey_url
    async with AsyncExitStack() as stack:
        yield await open_api(stack, start_ingest("four partitions").url)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url, partitions=4)
    yield client
    await client.aclose()


async def jobs_by_partition(redis: Any, channel: str) -> dict[int, list[int]]:
    """Return the indexes of the waiting jobs in each partition, in order."""
    found: dict[int, list[int]] = {}
    for partition in partitions(redis, channel):
        for key in await redis.keys(f"{partition.keys.tag}:jobs:*"):
            rows = await redis.xrange(key)
            found[partition.keys.index] = [unpack_job(fields[b"d"]).index for _, fields in rows]
    return found


async def test_large_blast_is_spread_over_all_partitions(api: Api, redis: Redis) -> None:
    """On both channels, without duplicates and recipients that lack an address: each job is in its own partition, in
    order, the totals are known before, and the request that is repeated adds nothing."""
    people = [person(number) for number in range(2600)]
    for number in range(700, 900):
        del people[number]["phone"]
    people[1200]["email"] = people[3]["email"]
    body = {"templateId": "otp", "channels": ["email", "whatsapp"], "recipients": people, "validation": "permissive"}
    answers = [await api.post(BLAST, body, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert {answer.status for answer in answers} == {202}, answers[0].text
    assert answers[0].body["blastId"] == answers[1].body["blastId"]
    store = BlastStore(redis, "test")
    blast = await store.load(answers[0].body["blastId"])
    assert blast is not None
    for channel, skipped in (("email", {1200}), ("whatsapp", set(range(700, 900)))):
        expected = [index for index in range(2600) if index not in skipped]
        found = await jobs_by_partition(redis, channel)
        assert sorted(index for some in found.values() for index in some) == expected
        assert all(some == sorted(some) for some in found.values())
        of_index = {index: blast.partition_of(channel, index) for index in expected}
        assert all(of_index[index] == partition for partition, some in found.items() for index in some)
        assert blast.shares(channel) == Counter(of_index.values())
    progress = await store.progress(blast.blast_id)
    assert progress is not None
    assert {name: one.enqueued for name, one in progress.channels.items()} == {"email": 2599, "whatsapp": 2400}


async def test_small_blasts_go_to_one_partition_each_and_together_to_all(api: Api, redis: Redis) -> None:
    """A blast has no keys in partitions without jobs of it."""
    for number in range(40):
        body = {"templateId": "otp", "channels": ["email"], "recipients": [person(number)]}
        assert (await api.post(BLAST, body)).status == 202
    found = await jobs_by_partition(redis, "email")
    assert len(found) == 4
    assert sum(map(len, found.values())) == 40
    keys: Any = [await redis.keys(f"{one.keys.blast('*')}") for one in partitions(redis, "email")]
    assert [len(some) for some in keys] == [len(found[index]) for index in range(4)]
