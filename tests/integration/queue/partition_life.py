"""A sequence of steps in one partition that calls every script of the queue."""

from __future__ import annotations

from shared.blasts import Blast, pack_blast
from shared.events import BlastAccepted, Ended, pack_event
from shared.jobs import Lane, pack_job
from shared.queue.doctor import Doctor
from shared.queue.partitions import Partition
from shared.queue.producer import queued_event
from shared.queue.reaper import Reaper
from shared.queue.refusals import Refusals, Refused
from shared.queue.scripts import load_script
from shared.queue.suppressions import Suppressions
from shared.suppressions import Suppression, pack_suppression
from tests.integration.queue.world import AT_ONCE, KEEP_MS, HandSender, World

BOUNCE = pack_suppression(Suppression("all", "bounce", "550", 1))
REFUSED = Refused("mx", "550", "refused@example.com", "", "everybody is refused")
HEAD = b"\x93\xa1p\x01"  # of a batch [producer, number, events]


async def live(world: World) -> list[str]:
    """Call every script in the world's partition; return the ids of the jobs that were begun there."""
    partition = world.partition
    await partition.call("stats", (10,))
    await _accept(world)
    sender = await world.sender()
    begun = await _send(world, sender) + await _lose_a_sender(world, sender)
    await _steer(world, sender)
    await _suppress(partition)
    await partition.call("emit_event", (b"\x93\xa1t\x01\x90",))
    await Doctor(partition, f"doctor of {sender.name}", repair=True).examine()
    await partition.call("count_jobs", (partition.keys.lane("normal"), "-", 10))
    await partition.call("correct_counts", (0, b"", 1000, "moved_at"))
    await partition.call("leave", (sender.name, "0", 64, 0))
    events = (partition.keys.events,)
    await load_script("create_group").call(world.redis, events, ("logger",))
    await load_script("ack_events").call(world.redis, events, ("logger", "1-1"))
    await load_script("take_over_events").call(world.redis, events, ("logger", "writer", 1000, 100))
    return begun


async def given(world: World, count: int, lane: Lane = "normal") -> Blast:
    """Enqueue a blast in only the world's partition."""
    blast = world.unknown_blast(count, lane)
    await world.enqueue(blast)
    return blast


async def _accept(world: World) -> None:
    """Accept a single message of the lane that is served first."""
    blast = world.unknown_blast(1, "high")
    (job,) = world.jobs(blast, [0])
    events = (pack_event(BlastAccepted(0, blast.blast_id, b"")), pack_event(queued_event(blast, "email", [job], 0)))
    message = (blast.blast_id, "high", pack_blast(blast), pack_job(job), *events)
    assert await world.partition.call("accept", (HEAD, *message)) == [1]


async def _send(world: World, sender: HandSender) -> list[str]:
    """Five jobs are sent, ended, parked, deferred and given back; another entry is not a job."""
    partition = world.partition
    blast = await given(world, 6)
    leases = await sender.take(5)
    assert all(await sender.finish(leases[0]))
    assert await sender.fail(leases[1])
    assert await sender.retry(leases[2], 50_000)
    assert await sender.defer(leases[3], 50_000)
    assert await sender.give_back(leases[4])
    await world.redis.xadd(partition.keys.lane("high"), {"d": b"no job"})
    (broken,) = (await sender.consumer.fetch(1)).undecodable
    await sender.consumer.discard(broken, 0)
    await partition.call("put_files", (blast.blast_id, 1000, "digest", b"content"))
    await partition.call("check_files", (blast.blast_id, "1", "0", 100))
    await partition.call("forget_files", ("letters", leases[1].job_id, 1))
    return [lease.job_id for lease in leases]


async def _lose_a_sender(world: World, sender: HandSender) -> list[str]:
    """A sender dies with a job in flight, is reaped, and reports its send late."""
    dead = await world.sender()
    (lease,) = await dead.take(1)
    await world.redis.delete(world.partition.keys.sender(dead.name))
    reaper = Reaper(world.partition, sender.name, AT_ONCE)
    assert [taken.in_flight for taken in await reaper.reap_dead() + await reaper.reap_dead() if taken.in_flight] == [1]
    await dead.late(lease)
    assert await sender.consumer.list_held("tx") == []
    return [lease.job_id]


async def _steer(world: World, sender: HandSender) -> None:
    """Pause, resume and cancel; set a rate; sweep waiting jobs; count a refusal."""
    partition = world.partition
    await partition.call("set_rate", (1, "10/1s", ""))
    await partition.call("set_rate", (0, "", ""))
    assert await partition.call("set_permit", (await partition.call("start_rate_change", (1, 0)), 1)) == 1
    assert await partition.call("grant", (sender.name, 1, 0, 0, 1, 0, "")) == b"g"
    own, other = await given(world, 120, "bulk"), await given(world, 2)
    for blast_id in (own.blast_id, other.blast_id):
        assert await partition.call("pause_blast", (blast_id, "wait", HEAD))
        assert await partition.call("resume_blast", (blast_id, HEAD))
    await partition.call("pause_channel", ("wait", HEAD))
    assert (await sender.consumer.fetch(1)).paused == "wait"
    await partition.call("resume_channel", (HEAD,))
    job = world.jobs(other, [0])[0]
    await partition.call("cancel_job", (job.job_id, KEEP_MS))
    stream = partition.keys.lane("normal")
    found = await partition.call("find_jobs", (stream, "-", "+", 10, b""))
    event = pack_event(Ended(0, job.job_id, 1, 0, "cancelled", "cancelled", "", ""))
    await partition.call("sweep", (HEAD, KEEP_MS, "cancelled", stream, found[2], job.job_id, "q", event))
    assert await partition.call("cancel_blast", (own.blast_id, HEAD, KEEP_MS, "cancelled_at"))
    ending = (b"\xa9cancelled\xa0\xa0\xa0\x00\xc4\x00", b"\xa9cancelled\xa0\xa0")
    await partition.call("sweep_chunks", (HEAD, KEEP_MS, "cancelled", own.blast_id, 0, 10, ending[1]))
    await partition.call("sweep_blast_stream", (HEAD, KEEP_MS, "cancelled", own.blast_id, "-", 500, *ending))
    refusals = Refusals(partition, sender.name)
    assert await refusals.count(REFUSED, 20, alone=True) == "hold"
    await refusals.clear("mx")


async def _suppress(partition: Partition) -> None:
    await partition.call("suppress", (HEAD, "a@example.com", BOUNCE))
    await partition.redis.hset(partition.keys.key("suppressed"), "B@example.com", "hard_bounce")
    assert await Suppressions(partition.redis).rekey(partition) == 1
    assert await partition.call("unsuppress", ("a@example.com", "", "", 0)) == 1
    assert await partition.call("copy_suppressions", ("c@example.com", "", BOUNCE)) == 1
    assert await partition.call("copy_suppressions", ("c@example.com", BOUNCE, "")) == 1
