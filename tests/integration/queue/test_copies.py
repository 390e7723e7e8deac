"""What every partition has a copy of: a writer that died in between leaves nothing half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from shared.errors import QueueUnavailableError
from shared.events import BlastChannelEnded, EventBatch
from shared.queue.consumer import BeginPolicy, Consumer
from shared.queue.control import channel_waits_for
from shared.queue.copies import Copies
from shared.queue.event_log import EventEntry, EventLog
from shared.queue.partitions import Partition, partition_at, partitions_of
from shared.queue.scripts import Argument
from shared.queue.spread_check import check_spread
from shared.queue.suppressions import Suppressions
from shared.settings import Rate
from shared.suppressions import Suppression, pack_suppression, unpack_suppressions
from tests.integration.queue.world import LASTING, HandSender, World, open_world
from tests.servers import wait_for

HEAD = b"\x93\xa1p\x01"
BOUNCE = Suppression("all", "bounce", "550", 1)
OPT_OUT = Suppression("marketing", "opt_out", "stop", 1)


@pytest.fixture
async def spread(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An empty queue of four partitions, over which blasts of eight jobs are spread."""
    for module in ("shared.blasts", "tests.integration.queue.world"):
        monkeypatch.setattr(f"{module}.SPAN", 2)
    world = open_world(redis_url, partitions=4)
    world.spread = True
    yield world
    await world.redis.aclose()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The partitions that no script reaches, by their indexes; they can still be read."""
    indexes: set[int] = set()
    call = Partition.call

    async def call_if_there(self: Partition, script: str, args: Sequence[Argument] = ()) -> Any:
        if self.keys.index in indexes:
            raise QueueUnavailableError("away")
        return await call(self, script, args)

    monkeypatch.setattr(Partition, "call", call_if_there)
    return indexes


async def pauses(world: World) -> set[str]:
    return {(await world.control.partition_stats(one)).pause_reason for one in world.partitions}


async def test_pause_that_only_the_first_partition_has_reaches_all(spread: World) -> None:
    """So does its end, and another reason."""
    first, *_ = spread.partitions
    copies = Copies(spread.redis, "email", "c")
    assert await copies.check_pause() == 0
    for reason in ("stop", "another", ""):
        await first.call("pause_channel" if reason else "resume_channel", (reason, HEAD) if reason else (HEAD,))
        assert await copies.check_pause() == 3
        assert await pauses(spread) == {reason}
    assert await copies.check_pause() == 0


async def test_suppressions_follow_the_first_partition(spread: World) -> None:
    """One that was added only there is added everywhere; one that was lifted there, in a scope, is lifted."""
    first, second, *_ = spread.partitions
    for address, one in (("a@example.com", BOUNCE), ("b@example.com", BOUNCE), ("b@example.com", OPT_OUT)):
        await first.call("suppress", (HEAD, address, pack_suppression(one)))
    await second.call("suppress", (HEAD, "gone@example.com", pack_suppression(BOUNCE)))
    copies = Copies(spread.redis, "email", "c")
    assert not await copies.suppressions_differ()  # a change may be under way
    assert await copies.suppressions_differ()
    assert await copies.check_suppressions() == 7
    await first.call("unsuppress", ("b@example.com", "marketing", "", 0))
    assert await copies.check_suppressions() == 3
    assert await copies.check_suppressions() == 0
    assert not await copies.suppressions_differ()
    stored = [await one.redis.hgetall(one.keys.key("suppressed")) for one in spread.partitions]
    assert stored[0].keys() == {b"a@example.com", b"b@example.com"}
    assert all(one == stored[0] for one in stored)


async def test_changes_reach_all_partitions_but_the_one_that_is_away(spread: World, away: set[int]) -> None:
    """Pauses, a cancellation, a suppression: their client gets an error, and repeats them for the one that was away."""
    blast, other = await spread.given(8), await spread.given(8)
    suppressions = Suppressions(spread.redis)

    async def try_all() -> Sequence[object]:
        return await asyncio.gather(
            spread.control.pause_channel("email", "stop"),
            suppressions.add("email", "a@example.com", BOUNCE),
            spread.control.pause_blast(blast.blast_id, "wait"),
            spread.control.cancel_blast(other.blast_id),
            return_exceptions=True,
        )

    async def having() -> list[set[int]]:
        found: list[set[int]] = [set(), set(), set(), set()]
        for one in spread.partitions:
            keys: Any = one.keys
            states = (
                await spread.redis.exists(keys.key("paused")),
                await spread.redis.hexists(keys.key("suppressed"), "a@example.com"),
                await spread.redis.hexists(keys.blast(blast.blast_id), "paused"),
                await spread.redis.hexists(keys.blast(other.blast_id), "cancelled_at"),
            )
            for some, has in zip(found, states, strict=True):
                some.update({keys.index} if has else ())
        return found

    away.add(1)
    assert [type(one) for one in await try_all()] == [QueueUnavailableError] * 4
    assert await having() == [{0, 2, 3}] * 4
    away.clear()
    assert not any(isinstance(one, Exception) for one in await try_all())
    assert await having() == [{0, 1, 2, 3}] * 4


async def test_copies_are_corrected_but_in_the_partition_that_is_away(spread: World, away: set[int]) -> None:
    """The others do not wait for it: the channel's pause, its suppressions, and the end of a blast."""
    blast = await spread.given(8)
    first, *_ = spread.partitions
    await first.call("pause_channel", ("stop", HEAD))
    await first.call("suppress", (HEAD, "a@example.com", pack_suppression(BOUNCE)))
    await first.call("cancel_blast", (blast.blast_id, HEAD, 1000, "cancelled_at"))
    copies = Copies(spread.redis, "email", "c")
    away.add(1)
    for check in (copies.check_pause, copies.check_suppressions, partial(copies.check_blast, blast)):
        with pytest.raises(QueueUnavailableError):
            await check()
    away.clear()
    assert [await copies.check_pause(), await copies.check_suppressions(), await copies.check_blast(blast)] == [1, 1, 1]


async def test_copies_of_many_suppressions_take_few_calls(spread: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition is new: it gets those of the whole channel in pages, and what only it has is gone."""
    first, second, *_ = spread.partitions
    for start in range(0, 3000, 500):
        pairs = [(f"r{number}@example.com", pack_suppression(BOUNCE)) for number in range(start, start + 500)]
        await first.call("suppress", (HEAD, *(word for pair in pairs for word in pair)))
    await second.call("suppress", (HEAD, "gone@example.com", pack_suppression(BOUNCE)))
    calls: list[str] = []
    call = Partition.call

    async def counted(self: Partition, script: str, args: Sequence[Argument] = ()) -> Any:
        calls.append(script)
        return await call(self, script, args)

    monkeypatch.setattr(Partition, "call", counted)
    await Copies(spread.redis, "email", "c").correct(second)
    assert len(calls) < 20
    stored = [await one.redis.hgetall(one.keys.key("suppressed")) for one in (first, second)]
    assert len(stored[0]) == 3000
    assert stored[0] == stored[1]


async def test_correction_does_not_undo_a_change_that_came_in_between(spread: World) -> None:
    """What was read of the copy is old by then: its writer has reached the partition since."""
    _, second, *_ = spread.partitions
    args = ("a@example.com", b"", b"old")
    await second.call("suppress", (HEAD, "a@example.com", pack_suppression(BOUNCE)))
    assert await second.call("copy_suppressions", args) == 0
    redis: Any = second.redis
    assert unpack_suppressions(await redis.hget(second.keys.key("suppressed"), "a@example.com")) == [BOUNCE]


async def test_rate_holds_when_the_number_of_partitions_is_raised_and_lowered(spread: World) -> None:
    """It was set at run time; one that an earlier version set, with one partition, is taken over."""
    one = open_world(spread.url)
    await spread.partition.call("set_rate", (200_000, "5/1s", ""))
    await Copies(spread.redis, "email", "c").correct(spread.partition)
    for setter in (one, spread):
        assert (await spread.control.channel_stats("email")).rate == ("5/1s", "api")
        await setter.control.set_rate("email", Rate(7, 1.0))
        for reader in (one, spread):
            assert (await reader.control.channel_stats("email")).rate == ("7/1s", "api")
        await setter.control.clear_rate("email")
        await Copies(spread.redis, "email", "c").correct(spread.partition)
        for reader in (one, spread):
            assert (await reader.control.channel_stats("email")).rate is None
        await setter.control.set_rate("email", Rate(5, 1.0))
    await one.redis.aclose()


async def test_jobs_in_a_partition_without_senders_say_so(spread: World) -> None:
    """Its senders run with another number of partitions: they serve only the first, and report nothing wrong."""
    blast = await spread.given(8)
    (served,) = [one for one in spread.partitions if one == spread.partition]
    sender = HandSender(Consumer(served, "s", LASTING, BeginPolicy()))
    await sender.consumer.heartbeat({"host": "h"}, first=True)
    assert channel_waits_for(await spread.control.channel_stats("email")) == ""
    assert all(await sender.finish(*await sender.take(8)))
    stats = await spread.control.channel_stats("email")
    assert (len(stats.senders), stats.waiting, stats.unserved) == (1, 6, 6)
    assert channel_waits_for(stats) == "no_senders"
    progress = await spread.blasts.progress(blast.blast_id)
    assert progress is not None
    resting = replace(progress.channels["email"], moved_at_ms=0)
    assert await spread.control.waiting_for(replace(progress, channels={"email": resting})) == {"email": "no_senders"}


async def test_blast_that_was_cancelled_in_one_partition_is_cancelled(spread: World) -> None:
    """Whichever partition that is; its jobs in the others are refused."""
    blast = await spread.given(8)
    *_, last = partitions_of(spread.redis, blast, "email")
    await last.call("cancel_blast", (blast.blast_id, HEAD, 1000, "cancelled_at"))
    copies = Copies(spread.redis, "email", "c")
    assert await copies.check_blast(blast) == 3
    assert await copies.check_blast(blast) == 0
    sender = await spread.sender()
    assert {grant.kind for grant in await sender.begin(await sender.fetch(20))} == {"cancelled"}


async def test_pause_of_a_blast_follows_its_first_partition(spread: World) -> None:
    """Its pause and its resume; partitions in which the blast has ended are left alone."""
    blast = await spread.given(8)
    first, second, *_ = partitions_of(spread.redis, blast, "email")
    sender = await spread.sender()
    leases = await sender.take(20)
    assert all(await sender.finish(*(one for one in leases if one.stream.startswith(f"{second.keys.tag}:"))))
    copies = Copies(spread.redis, "email", "c")
    await first.call("pause_blast", (blast.blast_id, "wait", HEAD))
    assert await copies.check_blast(blast) == 2
    assert (await spread.progress(blast)).paused == "wait"
    await first.call("resume_blast", (blast.blast_id, HEAD))
    assert await copies.check_blast(blast) == 2
    assert (await spread.progress(blast)).paused == ""


async def test_blast_expires_as_a_whole(spread: World) -> None:
    """Its counts stay a sum of all partitions while it waits in one, for however long; then the log lets it expire."""
    spread.timing = replace(spread.timing, keep_ended_ms=1)
    blast = await spread.given(8)
    sender = await spread.sender()
    *others, last = await sender.take(8)
    assert all(await sender.finish(*others))
    keys: list[Any] = [one.keys.blast(blast.blast_id) for one in spread.partitions]
    assert [await spread.redis.pttl(key) for key in keys] == [-1, -1, -1, -1]
    assert (await spread.progress(blast)).counts["sent"] == 7
    assert all(await sender.finish(last))
    assert (await spread.progress(blast)).ended_at_ms
    await spread.blasts.expire(blast.blast_id, 60_000)
    for key in (*keys, f"blast:{blast.blast_id}"):
        assert 0 < await spread.redis.pttl(key) <= 60_000


async def test_doctor_finds_and_repairs_copies_that_differ(spread: World) -> None:
    """Without repair it only counts them."""
    blast = await spread.given(8)
    first, *_ = partitions_of(spread.redis, blast, "email")
    await first.call("cancel_blast", (blast.blast_id, HEAD, 1000, "cancelled_at"))
    await spread.partitions[0].call("pause_channel", ("stop", HEAD))
    await spread.partitions[0].call("suppress", (HEAD, "a@example.com", pack_suppression(BOUNCE)))
    looked = await check_spread(spread.redis, "email", "looking", repair=False)
    assert sorted(found.count for found in looked) == [3, 3, 3]
    assert not any(found.repaired for found in looked)
    mended = await check_spread(spread.redis, "email", "mending", repair=True)
    assert [found.what for found in mended] == [found.what for found in looked]
    assert await check_spread(spread.redis, "email", "looking", repair=False) == []


async def test_doctor_reports_jobs_that_no_sender_serves(spread: World) -> None:
    """The number of partitions was lowered while the last one still had jobs."""
    blast = await spread.given(8)
    spread.redis.partitions = 3  # type: ignore[attr-defined]
    (found,) = await check_spread(spread.redis, "email", "looking", repair=True)
    assert (found.channel, found.count, found.repaired) == ("email.3", 2, False)
    assert "KURIR_PARTITIONS to at least 4" in found.detail
    assert partition_at(spread.redis, "email", 3).keys.index in blast.shares("email")


async def test_doctor_names_the_partitions_that_senders_leave_out(spread: World) -> None:
    """Senders were started with fewer partitions than ingest; while there is no sender at all, nothing is wrong."""
    blast = await spread.given(8)
    assert await check_spread(spread.redis, "email", "looking", repair=True) == []
    spread.redis.partitions = 3  # type: ignore[attr-defined]
    await spread.sender()
    spread.redis.partitions = 4  # type: ignore[attr-defined]
    (found,) = await check_spread(spread.redis, "email", "looking", repair=True)
    assert (found.channel, found.count, found.repaired) == ("email.3", 2, False)
    assert "KURIR_PARTITIONS=4" in found.detail
    await spread.sender()
    assert await check_spread(spread.redis, "email", "looking", repair=True) == []
    assert len(blast.shares("email")) == 4


async def test_events_of_a_partition_that_is_no_longer_served_are_read(spread: World) -> None:
    """The number of partitions was lowered before the log had read them: without them its counts would stay wrong."""
    blast = await spread.given(8)
    assert all(await (sender := await spread.sender()).finish(*await sender.take(8)))
    spread.redis.partitions = 2  # type: ignore[attr-defined]
    log = EventLog(spread.redis)
    await log.find_former()
    log.follow([])
    read: list[EventEntry] = []

    async def ended() -> set[int]:
        read.extend(await log.read(100, 0.1))
        events = [event for one in read if isinstance(one.batch, EventBatch) for event in one.batch.events]
        return {one.partition for one in events if isinstance(one, BlastChannelEnded)}

    async def have_all_ended() -> bool:
        return await ended() == set(blast.shares("email"))

    await wait_for(have_all_ended, what="the events of all four partitions")
    await log.ack(read)
    assert await log.lag() == 0
    await log.close()


async def test_dead_letters_of_a_paused_blast_wait_in_a_partition_where_it_had_ended(spread: World) -> None:
    """The blast is paused where it has not ended; its next runs elsewhere wait for the same resume."""
    blast = await spread.given(8)
    ended, *_ = partitions_of(spread.redis, blast, "email")
    sender = await spread.sender()
    leases = [one for one in await sender.take(20) if one.stream.startswith(f"{ended.keys.tag}:")]
    for lease in leases:
        assert await sender.fail(lease)
    assert await spread.control.pause_blast(blast.blast_id, "wait")
    assert (await spread.again(blast, [lease.job.index for lease in leases], run=2)).added == 2
    assert await sender.fetch(20) == []
    assert (await spread.control.channel_stats("email")).paused == 2
    await spread.check_balance(blast)
    assert await spread.control.resume_blast(blast.blast_id)
    assert len(await sender.take(20)) == 2
