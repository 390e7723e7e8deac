"""A channel whose queue has four partitions: its senders serve them all, and share its rate and its limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from shared.blasts import Blast
from shared.clock import SystemClock
from shared.errors import QueueUnavailableError
from shared.events import BlastChannelEnded
from shared.queue.consumer import Consumer
from shared.queue.leases import HeldEntry, given_back
from shared.queue.reaper import Reaper
from shared.sending.journal import Journal, Owner
from shared.sending.provider import Receipt, RenderedMessage
from shared.sending.takeover import Takeover
from shared.settings import Rate
from shared.suppressions import Suppression, pack_suppression
from tests.integration.queue.world import AT_ONCE, World, open_world, sent_move
from tests.integration.sending.fakes import FakeProvider, accept
from tests.integration.sending.running import QUARTER, SETTINGS, sending
from tests.integration.sending.test_rate import TEN_A_SECOND, most_in_any_second
from tests.servers import wait_for

DOMAIN_RATE = Rate(10, 0.5)


@pytest.fixture
async def spread(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An empty queue of four partitions, each of which gets ten jobs of a blast in turn."""
    for module in ("shared.blasts", "tests.integration.queue.world"):
        monkeypatch.setattr(f"{module}.SPAN", 10)
    # four senders share it here, each of which waits for work in four partitions
    world = open_world(valkey_url, QUARTER, partitions=4, max_connections=64)
    world.spread = True
    yield world
    await world.redis.aclose()


def partitions_of(blast: Blast, provider: FakeProvider) -> Counter[int]:
    """Count the messages of a blast at a provider by the partition of their jobs."""
    ids = [job_id.split(":") for job_id, _ in provider.calls]
    return Counter(blast.partition_of("email", int(index)) for blast_id, index, _ in ids if blast_id == blast.blast_id)


@pytest.mark.parametrize("lane", ["high", "normal", "bulk"])
async def test_one_sender_serves_every_partition(spread: World, lane: str) -> None:
    """Each message is sent once, the counts of the partitions add up, and each reports its own end of the blast."""
    blast = await spread.given(400, lane)  # type: ignore[arg-type]  # of the parameters above
    provider = FakeProvider()
    async with sending(spread, provider):
        await wait_for(lambda: len(provider.calls) == 400, what="every message")

        async def has_ended() -> bool:
            return (await spread.progress(blast)).ended_at_ms > 0

        await wait_for(has_ended, what="the blast to end")
        (sender,) = (await spread.control.channel_stats("email")).senders
        assert sender.concurrency == SETTINGS.concurrency
    assert partitions_of(blast, provider) == {0: 100, 1: 100, 2: 100, 3: 100}
    assert len({job_id for job_id, _ in provider.calls}) == 400
    await spread.check_balance(blast)
    assert (await spread.control.channel_stats("email")).completed == 400
    ended = [event for event in await spread.written() if isinstance(event, BlastChannelEnded)]
    assert {(event.partition, event.counts["sent"], event.partitions) for event in ended} == {
        (index, 100, 4) for index in range(4)
    }
    for partition in spread.partitions:
        assert not await spread.redis.exists(partition.keys.sender(sender.sender_id))


@pytest.mark.timing
@pytest.mark.parametrize(
    ("count", "least_a_second"), [(30, 0.0), pytest.param(60, 7.5, marks=pytest.mark.soak)], ids=["limit", "pace"]
)
async def test_never_more_than_ten_in_any_second_over_all_partitions(
    spread: World, count: int, least_a_second: float
) -> None:
    """Four senders serve four partitions: at most ten starts in any sliding second, and not many fewer."""
    blast = await spread.given(500)
    providers = [FakeProvider() for _ in range(4)]

    def times() -> list[float]:
        return sorted(at for provider in providers for _, at in provider.calls)

    async with AsyncExitStack() as stack:
        for provider in providers:
            await stack.enter_async_context(sending(spread, provider, TEN_A_SECOND))
        await wait_for(lambda: len(times()) >= count, 14, f"{count} messages")
    seen = times()
    assert most_in_any_second(seen) <= 10
    assert (len(seen) - 1) / (seen[-1] - seen[0]) > least_a_second
    assert len(sum((partitions_of(blast, provider) for provider in providers), Counter[int]())) == 4


@pytest.mark.timing
async def test_limit_of_a_domain_holds_over_all_partitions(spread: World) -> None:
    """Two senders: no sliding period sees more than a domain's limit, and the limit is used."""
    await spread.given(120, "bulk")
    providers = [FakeProvider() for _ in range(2)]
    limited = replace(SETTINGS, domain_rates={"example.com": DOMAIN_RATE})

    def times() -> list[float]:
        return sorted(at for provider in providers for _, at in provider.calls)

    async with AsyncExitStack() as stack:
        for provider in providers:
            await stack.enter_async_context(sending(spread, provider, limited))
        await wait_for(lambda: len(times()) >= 60, 20, "60 messages")
    seen = times()
    first_to_last = zip(seen, seen[DOMAIN_RATE.count :], strict=False)
    assert min(late - early for early, late in first_to_last) >= DOMAIN_RATE.period_s
    assert (len(seen) - 1) / (seen[-1] - seen[0]) > 8
    await spread.check_balance()


@pytest.mark.timing
@pytest.mark.parametrize("limited", [False, True], ids=["of the channel", "of its domain"])
@pytest.mark.parametrize("bulk", [5_000, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
async def test_password_starts_within_a_second_behind_bulk_in_all_partitions(
    spread: World, bulk: int, limited: bool
) -> None:
    """Behind thousands of bulk jobs at twenty a second, a message of `high` starts within a second, wherever it is."""
    twenty = Rate(20, 1.0)
    settings = replace(SETTINGS, domain_rates={"example.com": twenty}) if limited else replace(SETTINGS, rate=twenty)
    await spread.given(bulk, "bulk")
    waits: list[float] = []
    providers = [FakeProvider() for _ in range(2)]
    async with AsyncExitStack() as stack:
        for provider in providers:
            await stack.enter_async_context(sending(spread, provider, settings))
        await wait_for(lambda: sum(len(provider.calls) for provider in providers) >= 30, 10, "the bulk to be under way")
        for _ in range(6):
            blast = await spread.given(1, "high")
            since = asyncio.get_running_loop().time()
            job_id = f"{blast.blast_id}:0:email"

            def started(job_id: str = job_id) -> float:
                return max((at for one in providers for called, at in one.calls if called == job_id), default=0.0)

            waits.append(await wait_for(started, 3, "the one-time password") - since)
    assert max(waits) < 1.0
    print(f"behind {bulk} bulk jobs: {[round(one, 2) for one in sorted(waits)]} s")  # noqa: T201 -- for pytest -s


async def test_pause_and_cancellation_reach_every_partition(spread: World) -> None:
    """A paused blast sends nothing more in any partition, a resumed one does, a cancelled one ends everywhere."""
    blast, other = await spread.given(200, "bulk"), await spread.given(200, "bulk")
    assert await spread.control.pause_blast(blast.blast_id, "wait")
    provider = FakeProvider()
    async with sending(spread, provider):
        await wait_for(lambda: len(provider.calls) == 200, what="the other blast")
        assert partitions_of(blast, provider) == Counter()
        assert partitions_of(other, provider).total() == 200
        assert (await spread.progress(blast)).paused == "wait"
        await spread.control.pause_channel("email", "stop")
        assert await spread.control.resume_blast(blast.blast_id)
        await asyncio.sleep(0.5)
        assert partitions_of(blast, provider) == Counter()
        assert await spread.control.cancel_blast(blast.blast_id)
        await spread.control.resume_channel("email")
    progress = await spread.progress(blast)
    assert progress.counts["cancelled"] == 200
    assert progress.ended_at_ms
    await spread.check_balance(blast, other)


async def test_new_partitions_have_the_suppressions_before_anything_is_sent(spread: World) -> None:
    """KURIR_PARTITIONS was raised: only the first partition has them, until a sender begins to serve the others."""
    bounce = Suppression("all", "bounce", "550", 1)
    for number in range(80):
        await spread.partition.call("suppress", (b"\x93\xa1p\x01", f"r{number}@example.com", pack_suppression(bounce)))
    blast = await spread.given(81)
    provider = FakeProvider()
    async with sending(spread, provider):

        async def has_ended() -> bool:
            return (await spread.progress(blast)).ended_at_ms > 0

        await wait_for(has_ended, 30, "the blast to end")
    assert [job_id for job_id, _ in provider.calls] == [f"{blast.blast_id}:80:email"]


async def test_suspects_of_different_partitions_are_sent_alone(spread: World) -> None:
    """Jobs that a dead sender abandoned in two partitions are each sent while nothing else is in flight."""
    blast = await spread.given(80)
    dead = await spread.sender("dead")
    taken = await dead.take(80)
    suspects = [next(lease for lease in taken if dead.consumer.place_of(lease) == place) for place in (1, 3)]  # type: ignore[union-attr]
    assert all(await dead.consumer.settle([given_back(lease, b"") for lease in taken if lease not in suspects]))
    for partition in spread.partitions:
        await spread.redis.delete(partition.keys.sender("dead"))
    sending_now: set[str] = set()
    alone: dict[str, int] = {}

    async def behave(message: RenderedMessage) -> Receipt:
        sending_now.add(message.job_id)
        alone[message.job_id] = len(sending_now)
        await asyncio.sleep(0.02)
        alone[message.job_id] = max(alone[message.job_id], len(sending_now))
        sending_now.discard(message.job_id)
        return await accept(message)

    provider = FakeProvider(behave)
    async with sending(spread, provider):
        await wait_for(lambda: len(provider.calls) == 80, what="every message")
    assert {alone[lease.job_id] for lease in suspects} == {1}
    assert max(alone.values()) > 1
    await spread.check_balance(blast)


async def test_journal_is_applied_where_no_partition_is_away(
    spread: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others do not wait for one that is; the file is kept for it, and the caller learns why."""
    blast = await spread.given(80)
    dead = await spread.sender("dead")
    leases = await dead.fetch(80)
    assert len(leases) == 80
    Journal(tmp_path, Owner("dead", spread.partition.keys.tag), 20).close(keep=True)
    takeover = Takeover(tmp_path, [Reaper(one, "another", AT_ONCE) for one in spread.partitions], SystemClock())
    list_held = Consumer.list_held

    async def away(self: Consumer, kind: str) -> list[HeldEntry]:
        if self.partition.keys.index == 1:
            raise QueueUnavailableError("away")
        return await list_held(self, kind)

    with monkeypatch.context() as patch:
        patch.setattr(Consumer, "list_held", away)
        with pytest.raises(QueueUnavailableError):
            await takeover.take_over()
    assert Counter(dead.consumer.place_of(one) for one in await dead.consumer.list_held("buf")) == {1: 20}  # type: ignore[union-attr]
    await takeover.take_over()
    assert await dead.consumer.list_held("buf") == []
    await spread.check_balance(blast)


async def test_journal_of_a_killed_sender_is_applied_in_every_partition(spread: World, tmp_path: Path) -> None:
    """One journal has its hand-overs of all partitions: those without an answer are uncertain, all others are not."""
    blast = await spread.given(80)
    dead = await spread.sender("dead")
    leases = await dead.take(80)
    assert len(leases) == 80
    journal = Journal(tmp_path, Owner("dead", spread.partition.keys.tag), 20)
    for place in range(4):
        accepted, unanswered, *_ = (one for one in leases if dead.consumer.place_of(one) == place)  # type: ignore[union-attr]
        journal.accept(journal.take(accepted.key), sent_move(accepted).event)
        journal.take(unanswered.key)
    journal.close(keep=True)
    reapers = [Reaper(partition, "another", AT_ONCE) for partition in spread.partitions]
    takeover = Takeover(tmp_path, reapers, SystemClock())
    await takeover.take_over()
    counts = (await spread.progress(blast)).counts
    assert (counts["sent"], counts["retrying"], counts["queued"], counts["processing"]) == (4, 4, 72, 0)
    for partition in spread.partitions:
        assert list(tmp_path.iterdir())  # its last calls may still arrive
        await spread.redis.delete(partition.keys.sender("dead"))
        await takeover.take_over()
    assert not list(tmp_path.iterdir())
    await spread.check_balance(blast)
