"""Taking: fetching new jobs and beginning them in one step, and an answer of it that is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.blasts import Blast, pack_blast
from shared.errors import QueueUnavailableError
from shared.events import Begun
from shared.jobs import Recipient
from shared.queue.consumer import SNAPSHOTS_BYTES, BeginPolicy, Consumer, Taking
from shared.queue.fetched import Fetched
from shared.queue.keys import blast_key
from shared.queue.suppressions import Suppressions
from shared.suppressions import Suppression
from tests.integration.queue.world import HandSender, World, lose_answer

TAKING = Taking(want=10, in_flight=0, late_ms=0, asked_at=0.0, now_ms=7)


Refuse = Callable[[World, Blast], Awaitable[None]]


def consumer_of(sender: HandSender) -> Consumer:
    assert isinstance(sender.consumer, Consumer)
    return sender.consumer


async def take(sender: HandSender) -> Fetched:
    return await consumer_of(sender).take(TAKING)


def kinds(fetched: Fetched) -> list[str]:
    return [grant.kind for grant in fetched.grants]


async def held(sender: HandSender) -> tuple[int, int]:
    """Return how many jobs a sender holds in its buffer, and in flight."""
    consumer = consumer_of(sender)
    return len(await consumer.list_held("buf")), len(await consumer.list_held("tx"))


async def test_new_jobs_are_begun_as_they_are_fetched(world: World) -> None:
    """They are in flight, their counts and events say so, and they can be finished."""
    blast, sender = await world.given(3), await world.sender()
    fetched = await take(sender)
    assert kinds(fetched) == ["granted"] * 3
    assert await held(sender) == (0, 3)
    await world.check_balance(blast)
    begun = [event for event in await world.written() if isinstance(event, Begun)]
    assert begun == [Begun(7, 1, 1, sender.name, " ".join(f"{blast.blast_id}:{index}:email" for index in range(3)))]
    assert await sender.finish(*fetched.leases) == [True] * 3
    await world.check_balance(blast)


async def _cancel(world: World, blast: Blast) -> None:
    await world.redis.hset(world.partition.keys.blast(blast.blast_id), "cancelled_at", 1)


async def _pause(world: World, blast: Blast) -> None:
    await world.redis.hset(world.partition.keys.blast(blast.blast_id), "paused", "why")


async def _suppress(world: World, blast: Blast) -> None:
    del blast
    await Suppressions(world.redis).add("email", "R0@Example.com", Suppression("all", "api", "asked", 1))


@pytest.mark.parametrize(("refuse", "kind"), [(_cancel, "cancelled"), (_pause, "paused"), (_suppress, "suppressed")])
async def test_what_may_not_be_sent_is_refused(world: World, refuse: Refuse, kind: str) -> None:
    """A job is refused as `begin` refuses it, stays in the buffer, and is settled by its sender."""
    blast, sender = await world.blast(1), await world.sender()
    await world.enqueue(blast, recipient=Recipient("R0@Example.com", "R0"))
    await refuse(world, blast)
    fetched = await take(sender)
    assert kinds(fetched) == [kind]
    assert await held(sender) == (1, 0)
    assert await sender.settle_refusals(fetched.leases, fetched.grants) == [kind]


async def test_an_opt_out_refuses_only_marketing(world: World) -> None:
    """The script tells a job of marketing from another."""
    blast, sender = await world.blast(2), await world.sender()
    await world.enqueue(blast, 0, 1, recipient=Recipient("r@example.com", "R"))
    await world.enqueue(blast, 1, 1, recipient=Recipient("r@example.com", "R"), marketing=True)
    await Suppressions(world.redis).add("email", "r@example.com", Suppression("marketing", "api", "asked", 1))
    assert kinds(await take(sender)) == ["granted", "suppressed"]


async def test_an_expired_job_is_not_begun(world: World) -> None:
    blast, sender = await world.blast(2), await world.sender()
    await world.enqueue(blast, 0, 1, expires_at_ms=1)
    await world.enqueue(blast, 1, 1)
    assert kinds(await take(sender)) == ["expired", "granted"]


async def test_a_job_that_only_the_script_can_read_ends(world: World) -> None:
    """It was begun, and its sender cannot read it: it fails as undecodable, and counts once."""
    blast, sender = await world.given(2), await world.sender()
    stream = world.partition.keys.lane("normal")
    rows: Any = await world.redis.xrange(stream)
    entry_id, fields = rows[0]
    await world.redis.xdel(stream, entry_id)
    await world.redis.xadd(stream, {"d": fields[b"d"].replace(b"\xa6normal", b"\xa6abnorm")})
    fetched = await take(sender)
    assert kinds(fetched) == ["granted"]
    (broken,) = fetched.undecodable
    assert broken.begun
    assert await held(sender) == (0, 2)
    await sender.consumer.discard(broken, 7)
    assert await held(sender) == (0, 1)
    assert (await world.progress(blast)).counts["failed"] == 1
    await world.check_balance(blast)


async def test_jobs_that_are_not_new_are_only_fetched(world: World) -> None:
    """A retry, an address outside ASCII, and what comes with them: their sender reads them before they begin."""
    blast, sender = await world.given(1), await world.sender()
    (lease,) = await sender.take()
    assert await sender.retry(lease, 0)
    fetched = await take(sender)
    assert [one.attempt for one in fetched.leases] == [2]
    await world.given_with(Recipient("r\u00e9@example.com", "R"))
    await world.given(1)
    mixed = await take(sender)
    assert len(mixed.leases) == 2
    assert not fetched.grants
    assert not mixed.grants
    assert await held(sender) == (3, 0)
    await world.check_balance(blast)


async def test_a_start_under_the_channels_limit_is_granted_for_its_time(world: World) -> None:
    """Two jobs a minute apart: the second start is not free, and its job stays in the buffer."""
    await world.given(2)
    sender = await world.sender(policy=BeginPolicy(gap_us=60_000_000, concurrency=10))
    fetched = await take(sender)
    assert kinds(fetched) == ["granted", "limited"]
    assert fetched.grants[0].spaced == "channel"
    assert await held(sender) == (1, 1)


async def test_the_snapshots_of_single_messages_come_with_their_jobs(world: World) -> None:
    """Those that are small; that of a larger blast is needed once, and the sender may have it."""
    small, also = [await world.given(1) for _ in range(2)]
    await world.given(1, reference="x" * SNAPSHOTS_BYTES)
    await world.given(2)
    sender, kept = await world.sender(), dict[str, bytes]()
    consumer_of(sender).keep_snapshot = kept.__setitem__
    fetched = await take(sender)
    assert kinds(fetched) == ["granted"] * 5
    assert kept == {blast.blast_id: pack_blast(blast) for blast in (small, also)}


async def test_an_answer_has_no_more_snapshots_than_there_is_room_for(world: World) -> None:
    """Other calls wait behind it; its sender asks for the others."""
    for _ in range(3):
        await world.given(1, reference="x" * (SNAPSHOTS_BYTES // 3))
    sender, kept = await world.sender(), dict[str, bytes]()
    consumer_of(sender).keep_snapshot = kept.__setitem__
    assert kinds(await take(sender)) == ["granted"] * 3
    assert len(kept) == 2


async def test_no_snapshot_comes_unasked_or_once_it_is_gone(world: World) -> None:
    """A sender on a cluster does not ask, since a snapshot has a slot of its own there."""
    await world.given(1)
    sender, kept = await world.sender(), dict[str, bytes]()
    assert (await take(sender)).snapshots == {}
    gone = await world.given(1)
    assert await world.redis.delete(blast_key(gone.blast_id)) == 1
    consumer_of(sender).keep_snapshot = kept.__setitem__
    assert kinds(await take(sender)) == ["granted"]
    assert kept == {}


async def test_a_lost_answer_is_asked_for_again(world: World) -> None:
    """The jobs were begun once, and the sender learns of them: nothing is counted or reported twice."""
    blast, sender = await world.given(2), await world.sender()
    consumer = consumer_of(sender)
    lose_answer(consumer)
    with pytest.raises(QueueUnavailableError):
        await take(sender)
    again = await consumer.taken()
    assert kinds(again) == ["granted"] * 2
    assert consumer.unanswered is None
    assert await held(sender) == (0, 2)
    assert await sender.finish(*again.leases) == [True, True]
    await world.check_balance(blast)


async def test_a_late_copy_of_a_lost_call_does_nothing(world: World) -> None:
    """The call arrives after its sender has asked for its answer: no job is begun that its sender does not know of."""
    sender = await world.sender()
    consumer = consumer_of(sender)
    lost = lose_answer(consumer, made=False)
    with pytest.raises(QueueUnavailableError):
        await take(sender)
    assert (await consumer.taken()).leases == []
    blast = await world.given(2)
    assert (await consumer.partition.call("fetch", lost[0]))[3:] == [b"", []]
    assert await held(sender) == (0, 0)
    assert kinds(await take(sender)) == ["granted"] * 2
    await world.check_balance(blast)


async def test_a_lost_answer_has_the_number_of_the_attempt(world: World) -> None:
    """Of a job that was tried before, and so was only fetched."""
    await world.given(1)
    sender = await world.sender()
    consumer = consumer_of(sender)
    (lease,) = await sender.take()
    assert await sender.retry(lease, 0)
    lose_answer(consumer)
    with pytest.raises(QueueUnavailableError):
        await take(sender)
    again = await consumer.taken()
    assert [one.attempt for one in again.leases] == [2]
    assert not again.grants


async def test_an_answer_does_not_bring_back_jobs_that_are_gone(world: World) -> None:
    """Of two jobs, one was taken over and ended before the answer was asked for."""
    await world.given(2)
    sender = await world.sender()
    consumer = consumer_of(sender)
    lose_answer(consumer)
    with pytest.raises(QueueUnavailableError):
        await take(sender)
    stream = world.partition.keys.lane("normal")
    gone = (await consumer.list_held("tx"))[0].entry_id
    assert await world.redis.xdel(stream, gone) == 1
    again = await consumer.taken()
    assert [lease.job.index for lease in again.leases] == [1]
    assert kinds(again) == ["granted"]
