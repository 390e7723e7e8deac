"""Files of dead letters are stored once with the letter, kept as long as it is, and sent with its next run."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from services.logger.retention import DAY_MS, Retention
from shared.blasts import unpack_blast
from shared.clock import SystemClock
from shared.errors import QueueUnavailableError
from shared.events import Ended, pack_event
from shared.jobs import Attachment, Job, pack_job, unpack_job
from shared.queue.blasts import BlastStore
from shared.queue.connection import connect
from shared.queue.consumer import BeginPolicy, BeginRequest, Consumer
from shared.queue.event_log import EventLog
from shared.queue.files import FileStore
from shared.queue.keys import PartitionKeys
from shared.queue.leases import Lease, ended
from shared.queue.partitions import Partition
from shared.queue.producer import Chunk, Producer
from shared.queue.timing import Timing
from shared.sending.caches import FileCache
from tests.integration.logger.recording import Recording
from tests.integration.logger.service import LoggerProcess
from tests.servers import RedisServer, wait_for
from tests.unit.logger.database import START_MS, TEMPLATE, blast, job

FILES = [Attachment("same.pdf", "application/pdf", b"\xff" * 5000), Attachment("a.txt", "text/plain", b"hello", "a1")]
Record = Callable[..., Awaitable[Recording]]


@pytest.fixture
async def recording(valkey_url: str, tmp_path: Path) -> AsyncIterator[Recording]:
    """Return a recorder that is not started yet."""
    recording = Recording(valkey_url, tmp_path)
    yield recording
    await recording.close()


async def fail_all(redis: Redis, blast_id: str, count: int) -> list[Job]:
    """Enqueue a blast whose jobs all have the same files, and fail them as a sender does."""
    one = blast(blast_id, total=count)
    await BlastStore(redis, f"ingest-{blast_id}").create(one)
    jobs = [job(index, blast_id) for index in range(count)]
    whole = [
        msgspec.structs.replace(each, recipient=msgspec.structs.replace(each.recipient, attachments=FILES))
        for each in jobs
    ]
    await Producer(redis, f"ingest-{blast_id}").enqueue(Chunk(one, "email", 0, whole))
    sender = Consumer(
        Partition(redis, PartitionKeys("email")), f"sender-{blast_id}", Timing(), BeginPolicy(concurrency=1000)
    )
    await sender.heartbeat({}, first=True)
    leases = (await sender.fetch(count)).leases
    requests = [BeginRequest(lease) for lease in leases]
    assert {grant.kind for grant in await sender.begin(requests, START_MS)} == {"granted"}
    assert all(await sender.settle([ended(lease, pack_event(_failed(lease)), "failed") for lease in leases]))
    await sender.leave()
    return whole


def _failed(lease: Lease) -> Ended:
    words = "no such user"
    return Ended(START_MS, lease.job_id, 1, 1, "failed", "permanent", "550", words, 5, pack_job(lease.job))


async def in_redis(redis: Redis) -> int:
    """Return the number of keys for files in Redis that stay: a file that nothing needs expires within two seconds."""
    left = [await redis.pttl(key) async for key in redis.scan_iter("{email}:file[:s]*", count=1000)]
    return sum(ms == -1 or ms > 2000 for ms in left)


async def test_files_move_from_redis_to_the_log_with_their_dead_letters(recording: Recording) -> None:
    """Each file is stored once per blast, however many letters need it, and none is left in Redis."""
    await fail_all(recording.redis, "b", 3)
    assert await in_redis(recording.redis) == 3
    await recording.start()
    await wait_for(recording.is_drained)
    kept = recording.rows("SELECT blast_id, content FROM letter_files ORDER BY length(content)")
    assert kept == [("b", b"hello"), ("b", FILES[0].content)]
    assert recording.rows("SELECT count(*) FROM dead_letters") == [(3,)]
    assert await in_redis(recording.redis) == 0


async def test_files_stay_in_redis_until_their_dead_letters_are_written(recording: Recording) -> None:
    """Redis fails when a file is read and when it is released; nothing is lost or stored twice."""
    await fail_all(recording.redis, "b", 2)
    files, calls = recording.events.files, list[str]()
    get, forget = files.get, files.forget

    async def away(name: str, real: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        calls.append(name)
        if calls.count(name) == 1:
            raise QueueUnavailableError("away")
        return await real(*args)

    files.get = lambda *args: away("get", get, *args)  # type: ignore[method-assign]
    files.forget = lambda *args: away("forget", forget, *args)  # type: ignore[method-assign]
    await recording.start()
    await wait_for(recording.is_drained)
    assert calls.count("forget") >= 2
    assert recording.rows("SELECT count(*) FROM letter_files") == [(2,)]
    assert recording.rows("SELECT count(*) FROM dead_letters") == [(2,)]
    assert await in_redis(recording.redis) == 0


async def test_files_are_deleted_with_the_last_dead_letter_of_their_blast(recording: Recording) -> None:
    """They stay while a letter is left, and on the day they were stored, since a letter may follow."""
    await fail_all(recording.redis, "b", 2)
    await recording.start()
    await wait_for(recording.is_drained)

    async def left_after(days: int) -> int:
        class Later(SystemClock):
            def now_ms(self) -> int:
                return super().now_ms() + days * DAY_MS

        await Retention(recording.store, 10_000, lambda: None, Later()).purge()
        return int(recording.rows("SELECT count(*) FROM letter_files")[0][0])

    assert await left_after(2) == 2
    await recording.store.write(lambda connection: connection.execute("DELETE FROM dead_letters").rowcount)
    assert await left_after(0) == 2
    assert await left_after(2) == 0


async def test_a_dead_letter_is_sent_again_with_its_files(own_redis: RedisServer, logger: LoggerProcess) -> None:
    """Redis no longer has the files, so they come from the database."""
    redis = connect(own_redis.url)
    whole = await fail_all(redis, "again", 2)

    async def is_drained() -> bool:
        return await EventLog(redis).lag() == 0

    await wait_for(is_drained, 30)
    assert await in_redis(redis) == 0
    assert logger.get("/internal/messages/again:7:email/letter")[0] == 404
    letter = logger.get("/internal/messages/again:0:email/letter")[1]
    assert unpack_job(base64.b64decode(letter["job"])).recipient.address == whole[0].recipient.address
    assert unpack_blast(base64.b64decode(letter["blast"])).template == TEMPLATE
    assert logger.post("/internal/retry", {"blastId": "again"})[1]["reopened"] == 2

    async def both_wait() -> bool:
        return bool(await redis.xlen("{email}:jobs:normal") == 2)

    await wait_for(both_wait, 30)
    entries: Any = await redis.xrange("{email}:jobs:normal")
    cache = FileCache(FileStore(redis))
    found = [await cache.whole(unpack_job(fields[b"d"])) for _, fields in entries]
    assert [one.recipient for one in found] == [one.recipient for one in whole]
    assert {one.run for one in found} == {2}
    await redis.aclose()
