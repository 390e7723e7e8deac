"""The doctor: it finds each inconsistency, only reports it without repair, and repairs it with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from shared.blasts import Blast
from shared.events import BlastChannelEnded, Ended
from shared.jobs import Recipient
from shared.queue.blast_counts import BlastCounts, Found
from shared.queue.doctor import Doctor, Finding, OpenJob
from shared.queue.files import FileStore
from shared.sending.job_limits import JobLimit
from tests.integration.queue.world import KEEP_MS, WITH_FILES, HandSender, World, no_limit

PARTITIONS = (4,)


async def examine(world: World, *, repair: bool) -> list[Finding]:
    return await Doctor(world.partition, "doctor", repair=repair).examine()


async def busy(world: World) -> tuple[Blast, HandSender]:
    """A queue with jobs in every place: new, buffered, in flight, given back, parked, deferred, scheduled."""
    await world.given(2, "normal", scheduled_at_ms=4_000_000_000_000)
    await world.given(101, "bulk", scheduled_at_ms=4_000_000_000_000)
    await world.given(6, "high")
    blast = await world.given(120, "bulk")
    sender = await world.sender()
    leases = await sender.take(12)
    await sender.retry(leases[0], 60_000)
    await sender.retry(leases[8], 60_000)
    await sender.defer(leases[9], 60_000)
    await sender.give_back(leases[10])
    await sender.fetch(3)
    await world.given(4, "high")
    sender.limit_of = lambda _job: JobLimit("slow", 60_000_000)
    assert await sender.obey(await sender.fetch(4)) == ["granted", *["beyond"] * 3]
    return blast, sender


async def test_a_healthy_queue_has_no_findings(world: World) -> None:
    """A busy queue and an empty one are healthy."""
    assert await examine(world, repair=True) == []
    blast, _ = await busy(world)
    assert await examine(world, repair=True) == []
    await world.check_balance(blast)


Harm = Callable[[World, Blast, HandSender], Awaitable[object]]


async def ghost(world: World, blast: Blast, sender: HandSender) -> None:
    listed = await sender.consumer.load(await sender.consumer.list_held("tx"))
    entry = next(lease for lease in listed if lease.job.blast_id == blast.blast_id)
    await world.redis.xdel(entry.stream, entry.entry_id)


async def leaked(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.xgroup_createconsumer("{email}:jobs:high", "senders", "long-gone:buf")


async def out_of_ring(world: World, blast: Blast, _sender: HandSender) -> None:
    await world.redis.zrem("{email}:ring", f"{{email}}:jobs:bulk:{blast.blast_id}")


async def unlisted(world: World, blast: Blast, _sender: HandSender) -> None:
    await world.redis.srem("{email}:streams", blast.blast_id)


async def turn_for_nothing(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.zadd("{email}:ring", {"{email}:jobs:bulk:nowhere": 1})


async def start_for_nothing(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.zadd("{email}:starts", {"{email}:jobs:bulk:nowhere": 1})


async def listed_for_nothing(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.sadd("{email}:streams", "nowhere")


async def timeless_retry(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.delete("{email}:parked")


async def time_for_no_retry(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.zadd("{email}:parked", {"{email}:jobs:high 1-1": 1})


async def job_without_a_time(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.delete("{email}:later")


async def time_without_a_job(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.zadd("{email}:later", {"nobody:0:email": 5e15})


async def limit_without_a_turn(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.delete("{email}:limits:high")


async def turn_of_no_limit(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.zadd("{email}:limits:due", {"nowhere": 1})


async def limit_without_a_list(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.delete("{email}:limits:jobs:slow")


async def forgotten_limit(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.delete("{email}:limits", "{email}:limits:high")


async def listed_in_vain(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.zadd("{email}:limits:jobs:slow", {"nobody:0:email": 1})


async def place_of_nothing(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.hset("{email}:places", "nobody:0:email", "{email}:jobs:due 1-1")


async def place_of_another(world: World, blast: Blast, sender: HandSender) -> None:
    listed = await sender.consumer.list_held("tx")
    place = f"{listed[0].stream} {listed[0].entry_id}"
    await world.redis.hset("{email}:places", f"{blast.blast_id}:119:email", place)


async def wrong_counters(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.hincrby("{email}:counters", "sent", 5)


async def wrong_gauges(world: World, _blast: Blast, _sender: HandSender) -> None:
    await world.redis.hincrby("{email}:gauges", "processing", 5)


async def wrong_counts(world: World, blast: Blast, _sender: HandSender) -> None:
    await world.redis.hincrby(f"{{email}}:blast:{blast.blast_id}", "retrying", 2)


async def lost_counts(world: World, blast: Blast, _sender: HandSender) -> None:
    await world.redis.delete(f"{{email}}:blast:{blast.blast_id}")


async def filed(world: World) -> Blast:
    """Enqueue a job with files."""
    return await world.given_with(WITH_FILES)


async def lose(world: World, blast: Blast) -> None:
    """Take a blast's jobs out of the lane `normal`."""
    rows: Any = await world.redis.xrange("{email}:jobs:normal")
    for entry_id, fields in rows:
        if blast.blast_id.encode() in fields[b"d"]:
            await world.redis.xdel("{email}:jobs:normal", entry_id)


async def files_of_a_lost_job(world: World, _blast: Blast, _sender: HandSender) -> None:
    await lose(world, await filed(world))


async def file_for_nothing(world: World, blast: Blast, _sender: HandSender) -> None:
    await filed(world)
    await world.redis.set(f"{{email}}:file:{blast.blast_id}:abcd", b"content")


async def file_that_would_expire(world: World, _blast: Blast, _sender: HandSender) -> None:
    for key in await files_in(world, await filed(world)):
        await world.redis.pexpire(key, KEEP_MS)


async def listed_without_files(world: World, blast: Blast, _sender: HandSender) -> None:
    await world.redis.sadd("{email}:filed", blast.blast_id)


async def files_in(world: World, blast: Blast) -> list[bytes]:
    """List the files of a blast that will stay."""
    keys = [key async for key in world.redis.scan_iter(f"{{email}}:file:{blast.blast_id}:*", count=1000)]
    return [key for key in keys if await world.redis.pttl(key) == -1]


HARMS: list[tuple[Harm, str]] = [
    (ghost, "pending entries that are not in their stream"),
    (leaked, "consumers of senders that are gone"),
    (out_of_ring, "streams with work that get no turns"),
    (unlisted, "streams that are not listed"),
    (turn_for_nothing, "turns of streams that do not exist"),
    (start_for_nothing, "starts of streams that do not exist"),
    (listed_for_nothing, "listed streams that do not exist"),
    (timeless_retry, "parked retries without a time"),
    (time_for_no_retry, "times of retries that are not parked"),
    (job_without_a_time, "jobs due later without a time"),
    (time_without_a_job, "times of jobs that do not exist"),
    (limit_without_a_turn, "limits whose list gets no turns"),
    (turn_of_no_limit, "turns of limits that no job waits for"),
    (limit_without_a_list, "jobs due later without a time"),
    (forgotten_limit, "jobs due later without a time"),
    (listed_in_vain, "jobs in the lists of limits that do not wait for them"),
    (place_of_nothing, "recorded entries of jobs that do not exist"),
    (place_of_another, "recorded entries of jobs that do not exist"),
    (wrong_counters, "jobs by which the channel's counters are off"),
    (wrong_gauges, "gauges that are off"),
    (wrong_counts, "counts of a blast that do not add up"),
    (lost_counts, "counts of a blast that do not add up"),
    (files_of_a_lost_job, "jobs that are no longer in Redis but have files"),
    (file_for_nothing, "files that nothing needs"),
    (file_that_would_expire, "files that would expire although jobs need them"),
    (listed_without_files, "blasts listed with files that have none"),
]


@pytest.mark.parametrize(("harm", "what"), HARMS, ids=[harm.__name__ for harm, _ in HARMS])
async def test_each_inconsistency_is_found_and_repaired(world: World, harm: Harm, what: str) -> None:
    """It is reported without repair and repaired with it; afterwards all counts agree with Redis."""
    blast, sender = await busy(world)
    await harm(world, blast, sender)
    told = await examine(world, repair=False)
    assert what in [finding.what for finding in told]
    assert not any(finding.repaired for finding in told)
    mended = await examine(world, repair=True)
    assert what in [finding.what for finding in mended]
    assert all(finding.repaired for finding in mended)
    assert await examine(world, repair=True) == []
    await world.check_balance(*([] if harm is lost_counts else [blast]))


async def test_files_are_repaired_as_their_jobs_need_them(world: World) -> None:
    """The files of a lost job are freed within seconds; those of a waiting job stay as long as it waits."""
    blast, sender = await busy(world)
    lost, waiting = await filed(world), await filed(world)
    await lose(world, lost)
    await file_that_would_expire(world, blast, sender)
    for key in await files_in(world, waiting):
        await world.redis.pexpire(key, KEEP_MS)
    await examine(world, repair=False)
    assert await files_in(world, waiting) == []
    assert len(await files_in(world, lost)) == 4
    await examine(world, repair=True)
    assert len(await files_in(world, waiting)) == 4
    assert await files_in(world, lost) == []
    assert not await world.redis.exists(f"{{email}}:files:{lost.blast_id}")


async def test_a_missing_file_is_reported(world: World) -> None:
    """Nothing restores it: the finding says that its message will fail."""
    gone, *_ = await files_in(world, await filed(world))
    await world.redis.delete(gone)
    for _ in range(2):
        (finding,) = await examine(world, repair=True)
        assert (finding.what, finding.count, finding.repaired) == ("files that jobs need and that are gone", 1, False)
        assert "file_gone" in finding.detail


async def test_files_written_before_their_chunk_are_left_alone(world: World) -> None:
    """They expire without a repair, and so do those of dead letters."""
    blast = await world.given_with(WITH_FILES)
    sender = await world.sender()
    (lease,) = await sender.take()
    assert await sender.fail(lease)
    await FileStore(world.redis).put(world.partition, blast.blast_id, {"abcd": b"content"})
    assert await examine(world, repair=True) == []
    assert await world.redis.exists(f"{{email}}:file:{blast.blast_id}:abcd")


async def test_large_jobs_are_counted_over_several_calls(world: World) -> None:
    """Reading them in one call would block the server; a job of them that was lost is found all the same."""
    blast = await world.blast(20)
    large = Recipient("large@example.com", "Large", {"text": "x" * 1_000_000})
    for index in range(20):
        await world.enqueue(blast, index, 1, recipient=large)
    assert await examine(world, repair=True) == []
    redis: Any = world.redis
    (lost, _), *_ = await redis.xrange("{email}:jobs:normal", count=1)
    await redis.xdel("{email}:jobs:normal", lost)
    mended = await examine(world, repair=True)
    assert "counts of a blast that do not add up" in [finding.what for finding in mended]
    assert await examine(world, repair=True) == []
    await world.check_balance(blast)


@pytest.fixture
def page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor count every queue as it does one with many jobs, seven a call."""
    monkeypatch.setattr("shared.queue.doctor.MOST_AT_ONCE", 0)
    monkeypatch.setattr("shared.queue.blast_counts.PAGE", 7)


COUNTS: tuple[Harm, ...] = (ghost, wrong_counters, wrong_gauges, wrong_counts, lost_counts)


@pytest.mark.usefixtures("page_by_page")
@pytest.mark.parametrize(("harm", "what"), [pair for pair in HARMS if pair[0] in COUNTS])
async def test_counts_of_many_jobs_are_checked_page_by_page(world: World, harm: Harm, what: str) -> None:
    """With more jobs than one call may read, wrong counts are found and repaired as with few."""
    blast, sender = await busy(world)
    assert await examine(world, repair=True) == []
    await harm(world, blast, sender)
    for repair in (False, True):
        found = await examine(world, repair=repair)
        assert what in [finding.what for finding in found]
    assert await examine(world, repair=True) == []
    await world.check_balance(*([] if harm is lost_counts else [blast]))


Move = Callable[[World, HandSender], Awaitable[object]]


async def comes_due(world: World, sender: HandSender) -> None:
    redis: Any = world.redis
    (job_id,) = await redis.zrange("{email}:later", 0, 0)
    await redis.zadd("{email}:later", {job_id: 1})
    await sender.fetch(1)


async def is_begun(_world: World, sender: HandSender) -> None:
    await sender.take(1)


async def is_released(world: World, sender: HandSender) -> None:
    await world.redis.zadd("{email}:limits:due", {"slow": 1}, xx=True)
    await world.redis.delete("{email}:limit:slow")
    assert any("released" in lease.stream for lease in await sender.fetch(8))


async def is_shelved(world: World, sender: HandSender) -> None:
    (lease,) = await sender.fetch(1)
    assert await world.control.pause_blast(lease.job.blast_id, "wait")
    assert await sender.obey([lease]) == ["paused"]


async def given_apart(world: World, sender: HandSender) -> Blast:
    """Let jobs of one blast be deferred, wait for a limit, and wait in a stream."""
    blast = await world.given(12)
    for lease in await sender.take(4):
        assert await sender.defer(lease, KEEP_MS)
    sender.limit_of = lambda _job: JobLimit("slow", KEEP_MS * 1000)
    assert await sender.obey(await sender.fetch(4)) == ["granted", *["beyond"] * 3]
    sender.limit_of = no_limit
    return blast


@pytest.mark.usefixtures("page_by_page")
@pytest.mark.parametrize("move", [comes_due, is_begun, is_released, is_shelved])
async def test_blast_whose_job_moves_is_counted_again(
    world: World, monkeypatch: pytest.MonkeyPatch, move: Move
) -> None:
    """A job that moves between two pages is counted twice, or not at all: that is noticed, though no count changes."""
    sender = await world.sender()
    blast = await given_apart(world, sender)
    find, moves = BlastCounts._find_later, [move]

    async def find_and_move(self: BlastCounts, found: Found) -> None:
        await find(self, found)
        if moves:
            await moves.pop()(world, sender)

    monkeypatch.setattr(BlastCounts, "_find_later", find_and_move)
    assert await examine(world, repair=True) == []
    assert moves == []
    await world.check_balance(blast)


@pytest.mark.usefixtures("page_by_page")
async def test_blast_whose_jobs_keep_moving_is_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not corrected, and the doctor says so; other blasts are checked."""
    sender = await world.sender()
    blast = await given_apart(world, sender)
    other = await world.given(1, "high", scheduled_at_ms=4_000_000_000_000)
    await world.redis.hincrby(f"{{email}}:blast:{other.blast_id}", "retrying", 2)
    find = BlastCounts._find_later

    async def find_and_move(self: BlastCounts, found: Found) -> None:
        await find(self, found)
        await comes_due(world, sender)

    monkeypatch.setattr(BlastCounts, "_find_later", find_and_move)
    found = await examine(world, repair=True)
    assert [(one.what, one.wrong) for one in found] == [
        ("counts of a blast that do not add up", True),
        ("blasts whose counts were not checked", False),
    ]
    assert other.blast_id in found[0].detail
    await world.check_balance(blast, other)


async def test_blast_that_is_newer_than_the_list_of_blasts_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blast is accepted and paused between two calls of the doctor: the gauge of paused jobs includes its jobs."""
    blast = await world.given(3)
    assert await world.control.pause_blast(blast.blast_id, "wait")

    async def none_yet(_doctor: Doctor) -> list[str]:
        return []

    monkeypatch.setattr(Doctor, "_open_blasts", none_yet)
    assert await examine(world, repair=True) == []
    assert (await world.control.channel_stats("email")).paused == 3


async def test_lost_job_counts_as_failed_and_its_blast_ends(world: World) -> None:
    """A job that its blast counts and that does not exist would keep the blast open forever."""
    blast = await world.given(2)
    sender = await world.sender()
    first, second = await sender.take()
    await world.redis.xdel(first.stream, first.entry_id)
    assert await sender.finish(second) == [True]
    assert (await world.progress(blast)).ended_at_ms == 0
    await examine(world, repair=True)
    progress = await world.progress(blast)
    assert (progress.counts["sent"], progress.counts["failed"]) == (1, 1)
    assert progress.ended_at_ms > 0
    assert sum(isinstance(event, BlastChannelEnded) for event in await world.written()) == 1


@pytest.mark.parametrize("repair", [False, True])
async def test_lost_stream_of_a_scheduled_blast_stops_no_check(world: World, repair: bool) -> None:
    """Its jobs are reported as lost like any others; a repair counts them as failed, and the blast ends."""
    blast = await world.given(101, "bulk", scheduled_at_ms=4_000_000_000_000)
    await world.redis.delete(f"{{email}}:jobs:bulk:{blast.blast_id}")
    findings = {finding.what: finding for finding in await examine(world, repair=repair)}
    assert {finding.repaired for finding in findings.values()} == {repair}
    assert "101 jobs missing, 0 too many" in findings["counts of a blast that do not add up"].detail
    assert (await world.progress(blast)).counts["failed"] == (101 if repair else 0)
    assert ((await world.progress(blast)).ended_at_ms > 0) == repair


async def test_pending_lists_of_large_jobs_are_checked_a_megabyte_at_a_time(world: World) -> None:
    """A page ends early by the bytes of its jobs, because Redis is blocked meanwhile; the next page follows it."""
    blast = await world.blast(30)
    await world.enqueue(blast, recipient=Recipient("big@example.com", "Big", {"text": "x" * 100_000}))
    sender = await world.sender()
    ids: list[str] = []
    while leases := await sender.fetch(30):
        ids += [lease.entry_id for lease in leases]
    await world.redis.xdel("{email}:jobs:normal", ids[-1])
    pages, ghosts = ["-"], 0
    while pages[-1]:
        following, found, *_ = await world.partition.call("check_stream", ("{email}:jobs:normal", 0, 1, pages[-1], 500))
        pages.append(following.decode())
        ghosts += found
    assert (pages, ghosts) == (["-", f"({ids[9]}", f"({ids[19]}", ""], 1)


class KnownOpen:
    """The log's open jobs, in a list that a test changes."""

    def __init__(self, world: World, jobs: list[OpenJob]) -> None:
        self.world = world
        self.jobs = jobs

    async def list_open(self) -> AsyncIterator[list[OpenJob]]:
        await self.world.written()
        yield self.jobs
        yield []


async def test_rows_whose_jobs_are_gone_are_ended(world: World) -> None:
    """Jobs that are open in the log and not in Redis end as `failed`, class `lost`. Jobs in Redis, and those of
    another channel, are not touched."""
    blast, _ = await busy(world)
    here = [OpenJob(f"{blast.blast_id}:{index}:email", 1, 0) for index in range(120)]
    lost = OpenJob("gone:7:email", 2, 1)
    logger = KnownOpen(world, [*here, lost, OpenJob("gone:7:whatsapp", 1, 0)])
    (told,) = await Doctor(world.partition, "looking", repair=False).find_lost(logger)
    assert (told.count, told.repaired) == (1, False)
    (mended,) = await Doctor(world.partition, "mending", repair=True).find_lost(logger)
    assert (mended.count, mended.repaired) == (1, True)
    (ended,) = [event for event in await world.written() if isinstance(event, Ended)]
    assert (ended.job_id, ended.run, ended.status, ended.error_class) == ("gone:7:email", 2, "failed", "lost")


async def test_rows_that_the_logger_closes_meanwhile_are_left_alone(world: World) -> None:
    """A job that ended before the search is open only until the logger has read its event."""

    class Closing(KnownOpen):
        async def list_open(self) -> AsyncIterator[list[OpenJob]]:
            await self.world.written()
            jobs, self.jobs = self.jobs, []
            yield jobs

    logger = Closing(world, [OpenJob("gone:7:email", 1, 0)])
    assert await Doctor(world.partition, "doctor", repair=True).find_lost(logger) == []


async def test_nothing_is_ended_while_the_logger_is_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With unread events the log is out of date: the finding is reported and not repaired."""

    class Behind(KnownOpen):
        async def list_open(self) -> AsyncIterator[list[OpenJob]]:
            yield self.jobs

    monkeypatch.setattr("shared.queue.doctor.LOGGER_PATIENCE_S", 0.1)
    await world.given(1)
    logger = Behind(world, [OpenJob("gone:7:email", 1, 0)])
    (finding,) = await Doctor(world.partition, "doctor", repair=True).find_lost(logger)
    assert (finding.count, finding.repaired) == (1, False)
    assert not [event for event in await world.written() if isinstance(event, Ended)]


async def test_scheduled_blast_that_is_sent_again_is_healthy(world: World) -> None:
    """All jobs of a scheduled blast failed and are in a new stream of its own: they wait for a turn, not a time."""
    blast = await world.given(120, "bulk", scheduled_at_ms=4_000_000_000_000)
    await world.redis.zadd("{email}:starts", {f"{{email}}:jobs:bulk:{blast.blast_id}": 1})
    sender = await world.sender()
    for lease in await sender.take(120):
        assert await sender.fail(lease)
    await world.again(blast, range(120), run=2)
    assert await examine(world, repair=True) == []
    assert (await world.progress(blast)).counts["queued"] == 120
    await world.check_balance(blast)


async def test_jobs_with_attachments_are_not_reported_as_lost(world: World) -> None:
    """They are found in every place: new, in flight, parked, deferred, scheduled."""
    later = await world.blast(2, scheduled_at_ms=4_000_000_000_000)
    await world.enqueue(later, recipient=WITH_FILES)
    blast = await world.blast(110, "bulk")
    await world.enqueue(blast, recipient=WITH_FILES)
    sender = await world.sender()
    leases = await sender.take(5)
    assert await sender.retry(leases[0], 60_000)
    assert await sender.defer(leases[1], 60_000)
    assert await examine(world, repair=True) == []
    await world.check_balance(later, blast)
