"""Files of jobs: they are stored separately, once per blast, and are freed with the last job that needs them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from shared.blasts import Blast
from shared.errors import PermanentError, QueueUnavailableError
from shared.events import Sent, pack_event
from shared.jobs import Attachment, Job, Recipient
from shared.queue.files import UNUSED_MS, FileStore
from shared.queue.producer import Chunk, FilesGoneError
from shared.sending.caches import FileCache
from tests.integration.queue.world import HandSender, World, in_time
from tests.servers import PATIENCE_S

PARTITIONS = (4,)

SHARED = Attachment("price list.pdf", "application/pdf", b"\xff\x00" * 500)


def own_file(index: int) -> Attachment:
    """A file of only this recipient."""
    return Attachment(f"bill {index}.pdf", "application/pdf", b"%d" % index * 1000, f"bill{index}")


def with_files(jobs: list[Job]) -> list[Job]:
    """Give each job the shared file and one of its own."""
    return [
        msgspec.structs.replace(
            job, recipient=Recipient(f"r{job.index}@example.com", "R", attachments=[SHARED, own_file(job.index)])
        )
        for job in jobs
    ]


async def given(world: World, count: int, lane: str = "normal", **changes: object) -> Blast:
    """Accept and enqueue a blast in which each job has files."""
    blast = await world.blast(count, lane, **changes)  # type: ignore[arg-type]
    await world.producer.enqueue(Chunk(blast, "email", 0, with_files(world.jobs(blast, range(count)))))
    return blast


async def stays(world: World, key: str | bytes) -> bool:
    """Return whether a file is kept: files that nothing needs expire within two seconds."""
    left = await world.redis.pttl(key)
    return bool(left == -1 or left > 2000)


async def kept(world: World) -> int:
    """Count the files in Redis, and check that the records agree with them."""
    found = [key.decode() async for key in world.redis.scan_iter("{email}:file:*", count=1000)]
    files = [key for key in found if await stays(world, key)]
    accounts = [key.decode() async for key in world.redis.scan_iter("{email}:files:*", count=1000)]
    named = set()
    for account in accounts:
        fields: Any = await world.redis.hkeys(account)
        for field in fields:
            if field[:1] in b"#+":
                named.add(f"{{email}}:file:{account.rpartition(':')[2]}:{field[1:].decode()}")
    assert set(files) == named
    listed: Any = await world.redis.smembers("{email}:filed")
    assert {f"{{email}}:files:{blast_id.decode()}" for blast_id in listed} == set(accounts)
    return len(files)


async def test_a_file_is_stored_once_per_blast_and_apart_from_the_entries(world: World) -> None:
    """Three jobs share one file and have one each; a sender loads the files that were enqueued."""
    await given(world, 3)
    assert await kept(world) == 4
    entries: Any = await world.redis.xrange("{email}:jobs:normal")
    assert all(len(fields[b"d"]) < 400 for _, fields in entries)
    sender = await world.sender()
    for lease in await sender.fetch():
        whole = await world.whole(lease.job)
        assert whole.recipient.attachments == [SHARED, own_file(lease.job.index)]


Ending = Callable[[World, HandSender, Blast], Awaitable[object]]


async def _finish(world: World, sender: HandSender, blast: Blast) -> None:  # noqa: ARG001 -- one shape for all
    await sender.finish(*await sender.take())


async def _expire(world: World, sender: HandSender, blast: Blast) -> None:  # noqa: ARG001
    for lease in await sender.take():
        await sender.end(lease, "expired")


async def _cancel(world: World, sender: HandSender, blast: Blast) -> None:  # noqa: ARG001
    await world.control.cancel_blast(blast.blast_id)


async def _cancel_jobs(world: World, sender: HandSender, blast: Blast) -> None:  # noqa: ARG001
    for index in range(3):
        assert await world.control.cancel_job(f"{blast.blast_id}:{index}:email") == "cancelled"


async def _late(world: World, sender: HandSender, blast: Blast) -> None:
    leases = await sender.take()
    reaper = world.reaper(sender.name)
    assert await reaper.give_up(leases) == len(leases)
    for lease in leases:
        assert await sender.late(lease)
    assert (await world.progress(blast)).counts["sent"] == 3


async def _late_without_a_stall(world: World, sender: HandSender, blast: Blast) -> None:  # noqa: ARG001
    for lease in await sender.fetch():
        event = Sent(0, lease.job_id, lease.job.run, lease.attempt, "m", "250", 1, "", True)
        other = await world.sender()
        assert await other.consumer.sent_late([(lease, pack_event(event))]) == [True]


@pytest.mark.parametrize("end", [_finish, _expire, _cancel, _cancel_jobs, _late, _late_without_a_stall])
async def test_files_are_freed_with_the_last_job_that_needs_them(world: World, end: Ending) -> None:
    """They are freed however the jobs end; another blast with the same files keeps its own."""
    other = await given(world, 1)
    sender = await world.sender()
    parked = await sender.take()
    blast = await given(world, 3)
    assert await kept(world) == 6
    await end(world, sender, blast)
    await world.check_balance(other, blast)
    assert await kept(world) == 2
    assert await sender.finish(*parked) == [True]
    assert await kept(world) == 0


async def test_cancelling_a_bulk_blast_frees_its_files(world: World) -> None:
    """Untried jobs of the blast's own stream end together, also those with files."""
    blast = await given(world, 120, "bulk")
    assert await kept(world) == 121
    await world.control.cancel_blast(blast.blast_id)
    await world.check_balance(blast)
    assert await kept(world) == 0


async def test_files_freed_together_expire_one_after_the_other(world: World) -> None:
    """The server frees all expired keys in one go; spread over two seconds, hundreds of large files do not block it."""

    async def freed(_over_ms: int) -> None:
        blast = await given(world, 120, "bulk")
        await world.control.cancel_blast(blast.blast_id)
        keys = [key async for key in world.redis.scan_iter("{email}:file:*", count=1000)]
        left = Counter([await world.redis.pttl(key) // 100 for key in keys])
        assert len(left) > 10
        assert max(left.values()) < 30

    await in_time(world, freed)


async def test_files_stay_while_a_job_waits(world: World) -> None:
    """Retried, deferred, given back, paused or scheduled: the file has no expiry, and exists when it is needed."""
    blast = await given(world, 4)
    later = await given(world, 1, scheduled_at_ms=4_000_000_000_000)
    sender = await world.sender()
    first, second, third, fourth = await sender.take()
    assert await sender.retry(first, 0)
    assert await sender.defer(second, 0)
    assert await sender.give_back(third)
    assert await sender.finish(fourth) == [True]
    for key in [key async for key in world.redis.scan_iter("{email}:file*", count=1000)]:
        assert await world.redis.pttl(key) <= 2000  # that of the one that was sent goes
    assert await kept(world) == 4 + 2
    await world.control.pause_blast(blast.blast_id, "wait")
    assert await kept(world) == 4 + 2
    await world.control.cancel_blast(later.blast_id)
    assert await kept(world) == 4


async def test_files_of_a_dead_letter_stay_until_the_log_has_them(world: World) -> None:
    """They have an expiry once no job waits for them. Releasing an earlier run does not affect the next one's."""
    blast = await given(world, 2)
    sender = await world.sender()
    one, two = await sender.take()
    assert await sender.fail(one)
    assert await sender.fail(two)
    assert await kept(world) == 3
    keys = [key async for key in world.redis.scan_iter("{email}:file:*", count=1000)]
    assert all([await world.redis.pttl(key) > 86_400_000 for key in keys])
    again = with_files(world.jobs(blast, [one.job.index], run=2))
    await world.producer.enqueue(Chunk(blast, "email", 0, again, series="run:2"))
    assert await kept(world) == 3
    files = FileStore(world.redis)
    for _ in range(2):
        await files.forget("email", [(one.job_id, 1), (two.job_id, 1)])
        assert await kept(world) == 2
    (lease,) = await sender.take()
    assert (await world.whole(lease.job)).recipient == again[0].recipient
    assert await sender.finish(lease) == [True]
    assert await kept(world) == 0


async def test_a_repeated_chunk_counts_its_files_once(world: World) -> None:
    """Its reply was lost: its files are counted once, with the jobs that it adds."""
    blast = await given(world, 2)
    jobs = with_files(world.jobs(blast, range(2)))
    assert (await world.producer.enqueue(Chunk(blast, "email", 0, jobs))).added == 0
    sender = await world.sender()
    assert all(await sender.finish(*await sender.take()))
    assert await kept(world) == 0


async def test_files_without_their_chunk_expire(world: World) -> None:
    """Ingest died in between: they expire within the hour; a chunk that is enqueued in time keeps them."""
    blast = await world.blast(1)
    await FileStore(world.redis).put(world.partition, blast.blast_id, {"d": b"content"})
    assert 0 < await world.redis.pttl(f"{{email}}:file:{blast.blast_id}:d") <= UNUSED_MS


async def test_files_that_are_put_again_are_kept_for_the_next_chunk(world: World) -> None:
    """The files of a chunk that is repeated late, or shared with the next, do not expire between the two calls."""
    store = FileStore(world.redis)
    await store.put(world.partition, "b", {"d": b"content"})
    await world.redis.pexpire("{email}:file:b:d", 1000)
    await store.put(world.partition, "b", {"d": b"content"})
    assert await world.redis.pttl("{email}:file:b:d") > UNUSED_MS / 2


async def test_a_chunk_with_a_missing_file_is_refused(world: World) -> None:
    """The file was freed with its last job before the chunk came: the repeated chunk writes it again."""
    blast = await world.blast(1)
    jobs = with_files(world.jobs(blast, [0]))
    await world.producer.enqueue(Chunk(blast, "email", 0, jobs))
    sender = await world.sender()
    (lease,) = await sender.take()
    assert await sender.finish(lease) == [True]
    other = await world.blast(1)
    gone = [msgspec.structs.replace(lease.job, blast_id=other.blast_id)]
    with pytest.raises(FilesGoneError):
        await world.producer.enqueue(Chunk(other, "email", 0, gone))
    assert (await world.producer.enqueue(Chunk(other, "email", 0, gone, lenient=True))).added == 1


async def test_no_message_is_sent_without_its_attachment(world: World) -> None:
    """A lost file makes its message fail, and the error names the file."""
    await given(world, 1)
    sender = await world.sender()
    (lease,) = await sender.take()
    for key in [key async for key in world.redis.scan_iter("{email}:file:*", count=1000)]:
        await world.redis.delete(key)
    with pytest.raises(PermanentError, match="price list"):
        await world.whole(lease.job)


async def test_a_sender_waits_for_files_while_redis_is_away(world: World) -> None:
    """A connection error does not end the message; a loaded file is kept for other messages."""
    await given(world, 1)
    sender = await world.sender()
    (lease,) = await sender.take()
    store = FileStore(world.redis)
    asked: list[str] = []
    real = store.get

    async def away_at_first(channel: str, blast_id: str, digest: str, index: int = 0) -> bytes | None:
        asked.append(digest)
        if len(asked) == 1:
            raise QueueUnavailableError("away")
        return await real(channel, blast_id, digest, index)

    store.get = away_at_first  # type: ignore[method-assign]
    cache = FileCache(store)
    async with asyncio.timeout(PATIENCE_S):
        whole = await cache.whole(lease.job)
    assert whole.recipient.attachments == [SHARED, own_file(0)]
    assert len(asked) == 3
    await cache.whole(lease.job)
    assert len(asked) == 3


async def end_long_ago(world: World, blast: Blast) -> None:
    """Change a blast's counts as if all its jobs had ended two hours ago."""
    ended_at = int(time.time() * 1000) - 2 * 3600 * 1000
    await world.redis.hset(f"{{email}}:blast:{blast.blast_id}", "ended_at", ended_at)


async def test_files_of_lost_jobs_are_freed_after_their_blast_ended(world: World) -> None:
    """Only the counts show a lost job; the housekeeping of senders releases its files, and no others."""
    lost, alive = await given(world, 120, "bulk"), await given(world, 2, "high")
    await world.redis.delete(f"{{email}}:jobs:bulk:{lost.blast_id}")
    sender = await world.sender()
    reaper = world.reaper(sender.name)
    await reaper.reap_dead()
    assert await kept(world) == 121 + 3
    await end_long_ago(world, lost)
    for _ in range(5):
        await reaper.reap_dead()
    assert await kept(world) == 3
    assert await sender.finish(*await sender.take()) == [True, True]
    assert (await world.progress(alive)).counts["sent"] == 2


async def test_a_reopened_blast_keeps_its_files_during_a_check(world: World) -> None:
    """The check of an ended blast stops when its next run begins."""
    blast = await given(world, 120, "bulk")
    await end_long_ago(world, blast)
    await world.redis.set("{email}:look:files", f"{blast.blast_id} 0")
    await world.redis.hdel(f"{{email}}:blast:{blast.blast_id}", "ended_at")
    await world.reaper((await world.sender()).name).reap_dead()
    assert await kept(world) == 121


async def test_files_of_dead_letters_expire_if_the_log_never_stores_them(world: World) -> None:
    """Once their blast ended long ago, it is checked no more."""
    blast = await given(world, 1)
    sender = await world.sender()
    (lease,) = await sender.take()
    assert await sender.fail(lease)
    await end_long_ago(world, blast)
    await world.reaper(sender.name).reap_dead()
    for key in [key async for key in world.redis.scan_iter("{email}:file*", count=1000)]:
        assert await world.redis.pttl(key) > 86_400_000
    assert not await world.redis.exists("{email}:filed")


async def test_a_dead_letter_of_a_previous_versions_sender_frees_its_files(world: World) -> None:
    """It ignores them, so they stay recorded as a job's: when the log has stored them, it releases both."""
    await given(world, 2)
    sender = await world.sender()
    one, two = await sender.take()
    await FileStore(world.redis).forget("email", [(one.job_id, 1)])
    assert await kept(world) == 2
    await FileStore(world.redis).forget("email", [(two.job_id, 7)])
    assert await kept(world) == 2


async def test_the_record_of_an_earlier_run_is_replaced_by_the_next(world: World) -> None:
    """Its files are freed with the run that needs them, not with the forgotten one."""
    blast = await given(world, 1)
    sender = await world.sender()
    (lease,) = await sender.take()
    await world.redis.xdel(lease.stream, lease.entry_id)
    again = [msgspec.structs.replace(job, run=2) for job in with_files(world.jobs(blast, [0]))]
    await world.producer.enqueue(Chunk(blast, "email", 0, again, series="run:2"))
    assert await kept(world) == 2
    (lease,) = await sender.take()
    assert await sender.finish(lease) == [True]
    assert await kept(world) == 0
