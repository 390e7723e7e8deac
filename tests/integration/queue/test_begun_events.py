"""What is reported of the jobs that a call begins: one event for those that share a stream, blast, run and attempt."""

from __future__ import annotations

from collections.abc import Sequence

from shared.events import Begun
from shared.queue.consumer import BeginRequest, Consumer, Taking
from shared.queue.leases import Lease
from shared.queue.suppressions import Suppressions
from shared.suppressions import Suppression
from tests.integration.queue.world import HandSender, World, eventually

NOW_MS = 1_790_000_000_123


async def begin(sender: HandSender, leases: Sequence[Lease]) -> list[str]:
    """Begin jobs at NOW_MS; return the answers."""
    assert isinstance(sender.consumer, Consumer)
    return [grant.kind for grant in await sender.consumer.begin([BeginRequest(one) for one in leases], NOW_MS)]


async def reported(world: World) -> list[Begun]:
    return [event for event in await world.written() if isinstance(event, Begun)]


def begun(sender: HandSender, *leases: Lease, attempt: int = 1) -> Begun:
    return Begun(NOW_MS, 1, attempt, sender.name, " ".join(lease.job_id for lease in leases))


async def test_the_jobs_of_each_blast_begin_in_one_event(world: World) -> None:
    """In the order of the call, at the sender's time."""
    for _ in range(2):
        await world.given(20)
    sender = await world.sender()
    leases = await sender.fetch(40)
    assert set(await begin(sender, leases)) == {"granted"}
    assert await reported(world) == [begun(sender, *leases[:20]), begun(sender, *leases[20:])]
    assert [len(event) for event in await reported(world)] == [20, 20]


async def test_exactly_the_jobs_that_were_granted_are_reported(world: World) -> None:
    """Of one run, others are cancelled, suppressed, or lost; a call that begins none reports nothing."""
    await world.given(6)
    sender = await world.sender()
    leases = first, cancelled, suppressed, lost, fifth, sixth = await sender.fetch()
    await world.redis.hset("{email}:cancels", cancelled.job_id, 1)
    address = suppressed.job.recipient.address
    await Suppressions(world.redis).add("email", address, Suppression("all", "api", "asked", 1))
    assert await sender.give_back(lost)
    expected = ["granted", "cancelled", "suppressed", "lost", "granted", "granted"]
    assert await begin(sender, leases) == expected
    assert await reported(world) == [begun(sender, first, fifth, sixth)]
    assert await begin(sender, [first, cancelled, suppressed, lost]) == ["lost", "cancelled", "suppressed", "lost"]
    assert await reported(world) == [begun(sender, first, fifth, sixth)]


async def test_jobs_that_a_fetch_begins_are_reported_by_runs(world: World) -> None:
    """Those of each blast in one event, without the job that is refused."""
    first, second = [await world.given(3) for _ in range(2)]
    await world.redis.hset("{email}:cancels", f"{second.blast_id}:1:email", 1)
    sender = await world.sender()
    assert isinstance(sender.consumer, Consumer)
    fetched = await sender.consumer.take(Taking(6, 0, 0, 0.0, NOW_MS))
    assert [grant.kind for grant in fetched.grants] == ["granted"] * 4 + ["cancelled", "granted"]
    leases = fetched.leases
    assert {lease.job.blast_id for lease in leases[:3]} == {first.blast_id}
    assert await reported(world) == [begun(sender, *leases[:3]), begun(sender, leases[3], leases[5])]


async def test_a_further_attempt_is_reported_with_its_number(world: World) -> None:
    """A job that is tried again is in no run with those that are new."""
    await world.given(1)
    sender = await world.sender()
    (tried,) = await sender.take()
    assert await sender.retry(tried, 0)
    await world.given(2)
    (again,) = await eventually(lambda: sender.fetch(1), "the retry")
    new = await sender.fetch()
    world.events.clear()
    await world.written()
    world.events.clear()
    assert await begin(sender, [new[0], again, new[1]]) == ["granted"] * 3
    assert await reported(world) == [
        begun(sender, new[0]), begun(sender, again, attempt=2), begun(sender, new[1])
    ]  # fmt: skip


async def test_a_job_that_must_be_sent_alone_is_reported_alone(world: World) -> None:
    """The one beside it waits, and is reported once it begins."""
    await world.given(2)
    dead, sender = await world.sender(), await world.sender()
    await dead.take()
    leases = await dead.consumer.load(await dead.consumer.list_held("tx"))
    assert await world.reaper(dead.name).give_up(leases) == 2
    suspects = await sender.fetch()
    world.events.clear()
    await world.written()
    world.events.clear()
    assert await begin(sender, suspects) == ["alone", "wait"]
    assert await reported(world) == [begun(sender, suspects[0], attempt=2)]
    assert await sender.finish(suspects[0]) == [True]
    assert await begin(sender, suspects[1:]) == ["alone"]
    assert (await reported(world))[1:] == [begun(sender, suspects[1], attempt=2)]
