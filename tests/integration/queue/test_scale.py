"""Costs: memory per job, server time per call with many streams and jobs, the end of a large blast."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from shared.blasts import Blast
from shared.events import SweptRanges
from shared.jobs import Attachment, Lane, Recipient
from shared.queue import scripts
from shared.queue.consumer import BeginPolicy
from shared.queue.doctor import MOST_AT_ONCE, Doctor
from shared.queue.files import FileStore
from shared.queue.leases import Lease
from shared.queue.producer import Chunk, Enqueued
from shared.queue.scripts import load_script
from shared.queue.timing import Timing
from shared.sending.job_limits import JobLimit
from tests.integration.queue.world import World, ends, open_world
from tests.servers import Kind, RedisServer, wait_for


@pytest.fixture(params=["valkey", "redis"])
async def large(request: pytest.FixtureRequest) -> AsyncIterator[tuple[World, RedisServer]]:
    """An empty server of its own that keeps nothing on disk."""
    kind: Kind = request.param
    server = RedisServer(kind, ["--appendonly", "no"])
    server.start()
    world = open_world(server.url, Timing())
    yield world, server
    await world.redis.aclose()
    server.destroy()


MOVES = {"put_files", "enqueue", "fetch", "begin", "settle", "reap"}
RECIPIENT = Recipient("someone@example.com", "Someone", {"text": "x" * 92})


async def used_memory(world: World) -> int:
    return int((await world.redis.info("memory"))["used_memory"])


@pytest.mark.parametrize(("lane", "count", "blasts"), [("normal", 10_000, 1), ("bulk", 10_000, 1), ("bulk", 1, 2_000)])
async def test_waiting_job_costs_at_most_500_bytes(
    large: tuple[World, RedisServer], lane: str, count: int, blasts: int
) -> None:
    """The variables of the recipient take 100 bytes. The entry, the stream, the group and the indexes are counted; the
    event of the enqueueing (deleted once the logger has read it) and the blast's snapshot and counts are not."""
    world, _ = large
    await world.given(1, "normal")
    await world.written()
    accepted = [await world.blast(count, lane) for _ in range(blasts)]  # type: ignore[arg-type]
    before = await used_memory(world)
    for blast in accepted:
        for first in range(0, count, 500):
            await world.enqueue(blast, first, min(500, count - first), recipient=RECIPIENT)
    await world.written()
    jobs = count * blasts
    counted = await used_memory(world) - before
    assert counted / jobs <= 500
    assert (await world.control.channel_stats("email")).waiting == jobs + 1


async def server_ms(server: RedisServer, call: Callable[[], Awaitable[object]], times: int) -> float:
    """Return the server's CPU time per call over several calls; other processes on the machine do not count."""
    process = psutil.Process(server.pid)
    before = sum(process.cpu_times()[:2])
    for _ in range(times):
        await call()
    return (sum(process.cpu_times()[:2]) - before) / times * 1000


@pytest.mark.cost
async def test_calls_cost_the_same_with_a_thousand_bulk_blasts(large: tuple[World, RedisServer]) -> None:
    """With 1,000 bulk streams and 120,000 jobs a fetch, and a read of the statistics, take the server below 1 ms."""
    world, server = large
    await world.given(20_000)
    for _ in range(1000):
        await world.given(100, "bulk")
    sender = await world.sender()
    assert await server_ms(server, lambda: sender.fetch(10), 200) < 1
    assert await server_ms(server, lambda: world.control.channel_stats("email"), 200) < 1
    truth = await world.control.channel_stats("email")
    assert truth.waiting == 120_000


@pytest.mark.cost
async def test_no_call_costs_more_with_thousands_of_paused_blasts(large: tuple[World, RedisServer]) -> None:
    """With 3,000 paused bulk blasts, all of which a sender has served, no call of a sender takes the server 2 ms."""
    world, server = large
    served = await world.sender()
    for _ in range(30):
        blasts = [await world.given(100, "bulk") for _ in range(100)]
        leases = await served.fetch(400)
        assert all([await served.give_back(lease) for lease in leases])
        for blast in blasts:
            assert await world.control.pause_blast(blast.blast_id, "wait")
    await world.given(1000)
    sender = await world.sender()
    taken = await sender.take(50)
    control, reaper = world.control, world.reaper(sender.name)
    held_ms = await server_ms(server, lambda: served.consumer.list_held("buf"), 1)  # forgets what it holds nothing of
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "list_held": lambda: sender.consumer.list_held("tx"),
        "list_held of one that served them": lambda: served.consumer.list_held("tx"),
        "fetch": lambda: sender.fetch(1),
        "stats": lambda: control.channel_stats("email"),
        "heartbeat": lambda: sender.consumer.heartbeat({"host": "h"}),
        "give up": lambda: reaper.give_up(taken[:1]),
        "find the dead": reaper.reap_dead,
    }
    cost = {name: await server_ms(server, call, 50) for name, call in calls.items()}
    assert max(cost.values()) < 2, cost
    assert (await control.channel_stats("email")).paused == 300_000
    assert held_ms / 47 < 2, "a page of the streams that it had served"
    leaving = await world.sender()
    assert await server_ms(server, leaving.consumer.leave, 1) < 11  # one tick of the clock that counts


@pytest.mark.cost
async def test_parked_retries_do_not_slow_a_fetch(large: tuple[World, RedisServer]) -> None:
    """With 20,000 jobs that wait for their next attempt, a fetch takes the server below 1 ms."""
    world, server = large
    await world.given(20_000)
    sender = await world.sender()
    while leases := await sender.take(500):
        assert all(await sender.retry_all(leases, 50_000))
    await world.given(5000)
    assert await server_ms(server, lambda: sender.fetch(10), 200) < 1


@pytest.mark.cost
async def test_cancelled_blast_ends_within_seconds(large: tuple[World, RedisServer]) -> None:
    """50,000 jobs end, and their events are added, within 2 s; a small blast at the end of the lane immediately."""
    world, _ = large
    blast = await world.given(50_000, "bulk")
    started = time.monotonic()
    assert await world.control.cancel_blast(blast.blast_id)
    assert time.monotonic() - started < 2
    assert (await world.progress(blast)).counts["cancelled"] == 50_000
    await world.given(20_000)
    small = await world.given(10)
    started = time.monotonic()
    assert await world.control.cancel_blast(small.blast_id)
    assert time.monotonic() - started < 0.5
    assert (await world.progress(small)).counts["cancelled"] == 10


async def test_large_cancelled_jobs_are_gone(large: tuple[World, RedisServer]) -> None:
    """With the logger down, a cancellation frees memory: small events end the jobs, large ones a few at a time."""
    world, _ = large
    blast = await world.blast(110, "bulk")
    await world.enqueue(blast, 0, 55)
    await world.enqueue(blast, 55, 55, recipient=Recipient("heavy@example.com", "Heavy", {"text": "x" * 100_000}))
    await world.written()
    world.events.clear()
    assert await world.control.cancel_blast(blast.blast_id)
    told: Any = await world.redis.xrange("{email}:events")
    pages = [len(fields[b"d"]) for _, fields in told if b"swept_ranges" in fields[b"d"]]
    assert max(pages) < 500
    assert 5 <= len(pages) <= 10
    events = await world.written()
    assert sum(len(event) for event in events if isinstance(event, SweptRanges)) == 110
    assert (len(ends(events)), set(ends(events).values())) == (110, {1})
    assert (await world.progress(blast)).counts["cancelled"] == 110
    await world.check_balance(blast)


MEGABYTE = 1_000_000
_SCRIPTS = Path(scripts.__file__).parent / "lua"


def heavy(index: int) -> Recipient:
    """A recipient with a file of a megabyte that no other recipient has."""
    content = index.to_bytes(4, "big") * (MEGABYTE // 4)
    return Recipient(
        f"r{index}@example.com", f"R{index}", attachments=[Attachment("a.pdf", "application/pdf", content)]
    )


async def given_heavy(world: World, count: int, lane: Lane = "bulk", a_chunk: int = 20) -> Blast:
    """Enqueue a blast whose recipients have a file of a megabyte each."""
    blast = await world.blast(count, lane)
    for first in range(0, count, a_chunk):
        jobs = [
            msgspec.structs.replace(job, recipient=heavy(job.index))
            for job in world.jobs(blast, range(first, min(first + a_chunk, count)))
        ]
        await world.producer.enqueue(Chunk(blast, "email", first, jobs))
    return blast


async def note_costs(world: World, server: RedisServer) -> dict[str, float]:
    """Measure every further call; return the greatest server time of the calls of each script, in ms.

    The server's log of slow commands has the time of a command by the clock, which includes the time that other
    processes take on a busy machine. The CPU time of the thread that runs commands excludes that time and includes
    other work of the server. Each is at least the command's own work, and so is the lesser of the two: it hides no
    work, and other processes cannot make it larger than the work of the server.
    """
    await world.redis.config_set("slowlog-log-slower-than", 1000)
    most: dict[str, float] = {}
    call: Any = world.redis.execute_command
    loaded = [load_script(path.stem) for path in _SCRIPTS.glob("*.lua") if path.stem != "lib"]
    names = {script.digest: script.name for script in loaded} | {script.source: script.name for script in loaded}
    spent = Path(f"/proc/{server.pid}/schedstat")  # of the thread that runs commands, in ns

    async def noted(*args: Any, **options: Any) -> Any:
        await call("SLOWLOG RESET")
        before = int(spent.read_text().split()[0])
        try:
            return await call(*args, **options)
        finally:
            name = names.get(args[1], args[0]) if args[0].startswith("EVAL") else args[0]
            logged = await call("SLOWLOG GET", 128)
            cpu_ms = (int(spent.read_text().split()[0]) - before) / 1e6
            clock_ms = max((entry["duration"] for entry in logged), default=0) / 1000
            most[name] = max(most.get(name, 0.0), min(cpu_ms, clock_ms))

    world.redis.execute_command = noted  # type: ignore[method-assign]
    return most


async def file_keys(world: World) -> list[bytes]:
    return [key async for key in world.redis.scan_iter("{email}:file*", count=1000)]


async def test_the_cost_of_a_command_is_measured(large: tuple[World, RedisServer]) -> None:
    """A script that works for 30 ms is measured as such; a short one is not, whatever other processes do."""
    world, server = large
    most = await note_costs(world, server)
    busy = "local till = 0 repeat local t = redis.call('TIME') till = till + 1 until till > 100000"
    await world.redis.eval(busy, 0)
    await world.redis.ping()
    assert most["EVAL"] > 20
    assert most["PING"] < 1


@pytest.mark.cost
async def test_no_call_is_slow_with_heavy_attachments(large: tuple[World, RedisServer]) -> None:
    """Jobs of 300 recipients with a megabyte each take every path, from enqueueing to the end, a check and a sweep:
    no call takes the server 20 ms, and afterwards its memory is as before."""
    world, server = large
    await world.given(1)
    before = await used_memory(world)
    most = await note_costs(world, server)
    blasts = [await given_heavy(world, 300), await given_heavy(world, 60, "normal")]
    sender, dead = await world.sender(), await world.sender()
    leases = await sender.take(200)
    while len(leases) < 200:
        leases += await sender.take(200 - len(leases))
    assert await sender.retry(leases[0], 60_000)
    assert await sender.defer(leases[1], 60_000)
    assert all(await sender.finish(*leases[2:50]))
    assert all([await sender.fail(lease) for lease in leases[50:60]])
    lost = await dead.take(30)
    assert len(lost) == 30
    assert await world.reaper(sender.name).give_up(leases[60:150]) == 90
    await sender.consumer.list_held("tx")
    doctor = Doctor(world.partition, "doctor", repair=True)
    assert await doctor.examine() == []
    for blast in blasts:
        await world.control.cancel_blast(blast.blast_id)
    assert all(await sender.finish(*leases[150:]))
    assert all(await dead.finish(*lost))
    await FileStore(world.redis).forget("email", [(lease.job_id, 1) for lease in leases[50:60]])
    assert MOVES | {"sweep", "sweep_blast_stream", "recount"} <= set(most)
    assert {"check_files", "forget_files"} <= set(most)
    assert {name: ms for name, ms in most.items() if ms >= 20} == {}
    await world.check_balance(*blasts)
    await world.written()

    async def all_gone() -> bool:
        return not await file_keys(world) and await used_memory(world) < before + 3 * MEGABYTE

    await wait_for(all_gone, 10, "files and memory to go")


@pytest.mark.cost
async def test_no_call_is_slow_with_jobs_of_the_previous_version(large: tuple[World, RedisServer]) -> None:
    """100 jobs that contain a megabyte of files each: scripts do not spend long on jobs that they cannot read."""
    world, server = large
    await world.redis.hset("{email}:senders", "old", "{}")
    await world.redis.set("{email}:sender:old", "{}")
    most = await note_costs(world, server)
    blasts = [await given_heavy(world, 100, "bulk", 1), await given_heavy(world, 20, "normal", 1)]
    assert await file_keys(world) == []
    sender = await world.sender()
    leases: list[Lease] = []
    while len(leases) < 50:
        leases += await sender.take(50 - len(leases))
    assert await sender.retry(leases[0], 60_000)
    assert await sender.defer(leases[1], 0)
    assert all(await sender.finish(*leases[2:10]))
    assert await world.reaper(sender.name).give_up(leases[10:40]) == 30
    doctor = Doctor(world.partition, "doctor", repair=True)
    assert await doctor.examine() == []
    for blast in blasts:
        await world.control.cancel_blast(blast.blast_id)
    assert all(await sender.finish(*leases[40:]))
    while some := await sender.fetch(100):
        assert set(await sender.obey(some)) == {"cancelled"}
    assert MOVES | {"sweep", "sweep_blast_stream", "recount"} <= set(most)
    assert {name: ms for name, ms in most.items() if ms >= 20} == {}
    await world.check_balance(*blasts)


@pytest.mark.cost
async def test_no_call_is_slow_with_many_small_files(large: tuple[World, RedisServer]) -> None:
    """500 recipients with ten files each are added in several steps and swept in small pages: none takes 20 ms."""
    world, server = large
    most = await note_costs(world, server)
    for lane in ("bulk", "normal"):
        blast = await world.blast(500, lane)
        jobs = [
            msgspec.structs.replace(job, recipient=Recipient("a@example.com", "A", attachments=small_files(job.index)))
            for job in world.jobs(blast, range(500))
        ]
        assert (await world.producer.enqueue(Chunk(blast, "email", 0, jobs))) == Enqueued(500, 500, cancelled=False)
        assert (await world.producer.enqueue(Chunk(blast, "email", 0, jobs))) == Enqueued(0, 500, cancelled=False)
        assert len(await file_keys(world)) >= 5000
        await world.control.cancel_blast(blast.blast_id)
        await world.check_balance(blast)
    assert {"put_files", "enqueue", "sweep", "sweep_blast_stream"} <= set(most)
    assert {name: ms for name, ms in most.items() if ms >= 20} == {}


@pytest.mark.cost
async def test_no_call_is_slow_with_large_jobs_outside_the_streams(large: tuple[World, RedisServer]) -> None:
    """200 jobs with 200 KB of variables each wait for a limit, and 50 are deferred: no call of the doctor or of a
    cancellation takes 20 ms."""
    world, server = large
    most = await note_costs(world, server)
    sender = await world.sender()
    limited, later = await world.blast(200), await world.blast(50)
    big = Recipient("big@example.com", "Big", {"text": "x" * 200_000})
    for blast in (later, limited):
        for first in range(0, blast.total_recipients, 5):
            await world.enqueue(blast, first, 5, recipient=big)
    for _ in range(50):
        assert await sender.defer((await sender.take(1))[0], 60_000)
    sender.limit_of = lambda _job: JobLimit("slow", 60_000_000)
    words: list[str] = []
    while leases := await sender.fetch(100):
        words += await sender.obey(leases)
    assert words == ["granted", *["beyond"] * 199]
    assert await Doctor(world.partition, "doctor", repair=True).examine() == []
    for blast in (limited, later):
        assert await world.control.cancel_blast(blast.blast_id)
    assert (await world.progress(limited)).counts["cancelled"] == 199
    assert (await world.progress(later)).counts["cancelled"] == 50
    assert {"check_index", "sweep", "HSCAN", "recount"} <= set(most)
    assert {name: ms for name, ms in most.items() if ms >= 20} == {}
    await world.check_balance(limited, later)


@pytest.mark.cost
@pytest.mark.parametrize("count", [MOST_AT_ONCE, 20_000])
async def test_no_call_of_a_recount_is_slow(large: tuple[World, RedisServer], count: int) -> None:
    """The jobs that the doctor counts in one call, and ten times as many, page by page; some are deferred, some in
    flight. No call takes the server 20 ms."""
    world, server = large
    sender = await world.sender(policy=BeginPolicy(concurrency=count))
    blasts = [await world.given(count // 4)]
    while leases := await sender.take(500):
        for lease in leases[::2]:
            assert await sender.defer(lease, 60_000)
    blasts += [await world.given(count // 8, lane) for lane in ("normal", "bulk") for _ in range(3)]
    most = await note_costs(world, server)
    assert await Doctor(world.partition, "doctor", repair=True).examine() == []
    assert ("count_jobs" in most) == (count > MOST_AT_ONCE)
    assert {name: ms for name, ms in most.items() if ms >= 20} == {}
    await world.check_balance(*blasts)


@pytest.mark.cost
async def test_a_dead_sender_with_many_jobs_is_taken_over_in_short_calls(large: tuple[World, RedisServer]) -> None:
    """A sender with a thousand jobs in flight and as many in its buffer is taken over: no call takes 20 ms."""
    world, server = large
    dead, alive = await world.sender(), await world.sender()
    blasts = [await world.given(500, "high"), await world.given(500), await world.given(1000, "bulk")]
    for _ in range(2):
        assert len(await dead.take(500)) == 500
    fetched = 0
    while fetched < 1000:
        fetched += len(await dead.fetch(500))
    await world.redis.delete(f"{{email}}:sender:{dead.name}")
    most = await note_costs(world, server)
    taken = await world.reaper(alive.name)._take(dead.name)
    assert (taken.from_buffer, taken.in_flight) == (1000, 1000)
    assert most["reap"] < 20, most
    await world.check_balance(*blasts)


def small_files(index: int) -> list[Attachment]:
    """Ten files that no other recipient has."""
    return [Attachment(f"{n}.txt", "text/plain", f"{index} {n}".encode()) for n in range(10)]


async def test_a_fetch_returns_a_few_megabytes_at_most(large: tuple[World, RedisServer]) -> None:
    """Large jobs, by their variables or from an earlier version: a fetch takes at least one, and soon the others."""
    world, _ = large
    blast = await world.blast(20)
    big = Recipient("big@example.com", "Big", {"text": "x" * MEGABYTE})
    for first in range(0, 20, 5):
        await world.enqueue(blast, first, 5, recipient=big)
    huge = await world.blast(1, "high")
    await world.enqueue(huge, recipient=Recipient("huge@example.com", "Huge", {"text": "x" * 5 * MEGABYTE}))
    sender = await world.sender()
    assert [lease.job.blast_id for lease in await sender.fetch(100)] == [huge.blast_id]
    fetched: list[Lease] = []
    sizes: list[int] = []
    while some := await sender.fetch(100):
        sizes.append(len(some))
        fetched += some
    assert (len(fetched), max(sizes)) == (20, 2)
    assert all([await sender.give_back(lease) for lease in fetched])
    again = await sender.fetch(100)
    assert 1 <= len(again) <= 2
    assert (await sender.consumer.fetch(100)).due_in_s == 0


async def test_a_fetch_promotes_a_few_megabytes_of_due_jobs(large: tuple[World, RedisServer]) -> None:
    """Ten large jobs whose deferral is over move to their stream over several fetches, and none is forgotten."""
    world, _ = large
    blast = await world.blast(10)
    sender = await world.sender()
    big = Recipient("big@example.com", "Big", {"text": "x" * MEGABYTE})
    for index in range(10):
        await world.enqueue(blast, index, 1, recipient=big)
        (lease,) = await sender.take()
        assert await sender.defer(lease, 3_600_000)
    due: Any = await world.redis.zrange("{email}:later", 0, -1)
    for job_id in due:
        await world.redis.zadd("{email}:later", {job_id: 1})
    fetched = await sender.consumer.fetch(100)
    assert fetched.due_in_s == 0
    assert await world.redis.hlen("{email}:later:jobs") == 8
    leases = list(fetched.leases)
    while some := await sender.fetch(100):
        leases += some
    assert len({lease.job_id for lease in leases}) == 10
