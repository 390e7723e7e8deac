"""A repeated request gets the same answer, continues after a crash, and is refused while the first one runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks.ingest_million import measure
from services.ingest.blasts.request_body import Digest
from services.ingest.storage.idempotency import IdempotencyStore, record_key
from shared.blasts import Blast
from shared.events import BlastChanged, unpack_batch
from shared.jobs import Job, Recipient
from shared.queue.blasts import BlastStore
from shared.queue.control import Control
from shared.queue.producer import Chunk, Producer
from shared.templates import Template
from tests.integration.ingest.running import Api, Reply, person, running
from tests.integration.ingest.test_blasts import BLAST, queued
from tests.servers import wait_for

PEOPLE = [person(number) for number in range(5)]
KEY = "the-key"


async def test_a_repeated_request_gets_the_same_answer(api: Api, redis: Redis) -> None:
    """The answer is the same byte for byte and marked as replayed; nothing is queued, even after its times passed."""
    first = await api.blast(*PEOPLE, key=KEY)
    again = await api.blast(*PEOPLE, key=KEY)
    assert (again.status, again.text) == (202, first.text)
    assert again.headers["Location"] == first.headers["Location"]
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    assert len(await queued(redis)) == 5


async def test_many_at_once_queue_one_blast(api: Api, redis: Redis) -> None:
    """Each of ten simultaneous calls with one key gets the same blast, or is asked to repeat the call."""
    replies = await asyncio.gather(*(api.blast(*PEOPLE, key=KEY) for _ in range(10)))
    taken = {reply.body["blastId"] for reply in replies if reply.status == 202}
    assert len(taken) == 1
    assert {reply.body["code"] for reply in replies if reply.status != 202} <= {"IDEMPOTENCY_IN_PROGRESS"}
    assert len(await queued(redis)) == 5


async def test_a_refused_request_may_be_corrected_under_its_key(api: Api) -> None:
    """A request that changed nothing leaves no record."""
    assert (await api.blast(person(email="x"), key=KEY)).status == 422
    assert (await api.blast(person(), key=KEY)).status == 202


async def test_api_keys_do_not_share_idempotency_keys(redis: Redis) -> None:
    """Two API keys never share a record."""
    assert record_key("a", KEY) != record_key("b", KEY)
    store = IdempotencyStore(redis)
    assert (await store.claim(record_key("a", KEY), "1", "x")).state == "new"
    assert (await store.claim(record_key("b", KEY), "2", "y")).state == "new"


def _body() -> bytes:
    return json.dumps({"templateId": "otp", "channels": ["email"], "recipients": PEOPLE}).encode()


async def _half_done(redis: Redis, *, lease_ms: int = 1, queued_jobs: int = 2) -> Blast:
    """Leave the state of a request that died while enqueueing: a claim, a snapshot, and two of five jobs."""
    digest = Digest("blast", "application/json", "")
    digest.update(_body())
    blast_id = "0" * 16
    await IdempotencyStore(redis, lease_ms).claim(record_key("", KEY), digest.text(), blast_id)
    template = Template(id="otp", name="The version of that day", channels=["email"], subject="s", text="{{ name }}")
    blast = Blast(blast_id, template, ["email"], "normal", 1_700_000_000_000, {"email": 5}, 5)
    await BlastStore(redis, "died").create(blast)
    jobs = [
        Job(blast_id, number, "email", "normal", Recipient(f"person{number}@example.com", f"Person {number}"), 1)
        for number in range(queued_jobs)
    ]
    if jobs:
        await Producer(redis, "died").enqueue(Chunk(blast, "email", 0, jobs))
    await redis.zadd("ingest:open-blasts", {blast_id: blast.created_at_ms})
    return blast


async def _repeat(api: Api) -> Reply:
    return await api.post(BLAST, data=_body(), headers={"Content-Type": "application/json", "Idempotency-Key": KEY})


async def test_a_lapsed_request_continues_where_it_stopped(api: Api, redis: Redis) -> None:
    """The same blast continues from its snapshot, with exactly the missing jobs."""
    blast = await _half_done(redis)
    reply = await _until_taken(api)
    assert reply.body["blastId"] == blast.blast_id
    assert [job.index for job in await queued(redis)] == [0, 1, 2, 3, 4]
    kept = await BlastStore(redis, "test").load(blast.blast_id)
    assert kept is not None
    assert kept.template.name == "The version of that day"

    async def closed() -> bool:
        return await _open(redis) == 0

    await wait_for(closed)


async def _until_taken(api: Api) -> Reply:
    replies: list[Reply] = []

    async def taken() -> bool:
        replies.append(await _repeat(api))
        return replies[-1].status == 202

    await wait_for(taken, what="the lease to lapse")
    return replies[-1]


async def test_a_blast_without_progress_ends_as_incomplete(api: Api, redis: Redis, tmp_path: Path) -> None:
    """Its total becomes the number of enqueued jobs, the log records it, and its key can no longer continue it."""
    blast = await _half_done(redis)
    client: Any = redis
    await client.hset(f"{{email}}:blast:{blast.blast_id}", "moved_at", 1)
    settings = {"KURIR_INCOMPLETE_AFTER": "150ms"}
    with running(_url(redis), tmp_path, settings):

        async def incomplete() -> bool:
            state = (await api.get(f"/api/blasts/{blast.blast_id}")).body["blast"]
            return state["state"] == "incomplete" or (state["totalMessages"] == 2 and not await _open(redis))

        await wait_for(incomplete)
        await wait_for(lambda: _told_incomplete(redis, blast.blast_id))
    reply = await _repeat(api)
    assert (reply.status, reply.body["code"]) == (409, "BLAST_ENDED")
    assert "2 messages queued" in reply.body["message"]
    assert len(await queued(redis)) == 2


def _url(redis: Redis) -> str:
    at = redis.connection_pool.connection_kwargs
    return f"redis://{at['host']}:{at['port']}/0"


async def _open(redis: Redis) -> int:
    return int(await redis.zcard("ingest:open-blasts"))


async def _told_incomplete(redis: Redis, blast_id: str) -> bool:
    client: Any = redis
    events = [
        event
        for _, fields in await client.xrange("{email}:events")
        for event in unpack_batch(fields[b"d"]).events
        if isinstance(event, BlastChanged)
    ]
    return any(event.blast_id == blast_id and event.change == "incomplete" for event in events)


async def test_a_cancelled_blast_takes_no_more_of_a_repeated_request(api: Api, redis: Redis) -> None:
    """The request is answered, but no job is added after the cancellation."""
    blast = await _half_done(redis)
    assert await Control(redis, "test").cancel_blast(blast.blast_id)
    reply = await _until_taken(api)
    assert reply.body["blastId"] == blast.blast_id
    assert await queued(redis) == []


async def test_twenty_thousand_are_queued_exactly_once_when_ingest_is_killed() -> None:
    """Ingest is killed in the middle of a POST; the client repeats the call with its key, and memory stays bounded."""
    posts = 1
    # a kill that comes after the answer, since this process stood still for a moment, proves nothing: then once more
    for _ in range(5):
        figures = await measure(20_000, kill=True, time_scale=0.1)
        assert figures.queued == figures.distinct == 20_000
        assert figures.rss_peak_mb < 200
        posts = figures.posts
        if posts > 1:
            break
    assert posts > 1
