"""A rate that is set at run time while the queue has several partitions: none begins a job without asking it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from shared.errors import QueueUnavailableError
from shared.queue.consumer import BeginPolicy, BeginRequest
from shared.queue.consumers import Consumers
from shared.queue.copies import Copies
from shared.queue.leases import Lease
from shared.queue.partitions import Partition, limits_partition
from shared.queue.rates import Rates
from shared.queue.scripts import Argument
from shared.settings import Rate
from tests.integration.queue.world import HandSender, World, open_world

GAP_US = 1_000_000


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
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the scripts that are called."""
    names: list[str] = []
    call = Partition.call

    async def noted(self: Partition, script: str, args: Sequence[Argument] = ()) -> Any:
        names.append(script)
        return await call(self, script, args)

    monkeypatch.setattr(Partition, "call", noted)
    return names


async def permitted(world: World) -> set[int]:
    """Return the indexes of the partitions that begin jobs without asking the limits."""
    redis: Any = world.redis
    values = [await redis.hget(one.keys.key("config"), "permit") for one in world.partitions]
    return {index for index, value in enumerate(values) if value == b"1"}


async def is_limited(world: World) -> bool:
    redis: Any = world.redis
    return int(await redis.hget(limits_partition(redis, "email").keys.key("config"), "gap_us") or 0) > 0


def consumers_of(sender: HandSender) -> Consumers:
    assert isinstance(sender.consumer, Consumers)
    return sender.consumer


async def begin(sender: HandSender, leases: Sequence[Lease]) -> list[str]:
    return [grant.kind for grant in await consumers_of(sender).begin([BeginRequest(one) for one in leases], 0)]


async def test_limits_are_asked_only_where_there_may_be_some(spread: World, calls: list[str]) -> None:
    """Not without a rate; from the first begin after one is set, in whatever partition; and not once it is lifted."""
    sender = await spread.sender()
    await spread.given(24)
    leases = await sender.fetch(24)
    assert await begin(sender, leases[:4]) == ["granted"] * 4
    assert "grant" not in calls
    await spread.control.set_rate("email", Rate(1, 1.0))
    for expected in (["granted", "limited", "limited", "limited"], ["limited"] * 4):
        assert await begin(sender, leases[4:8]) in (expected, ["lost", *["limited"] * 3])
    await spread.control.clear_rate("email")
    assert await begin(sender, leases[8:12]) == ["granted"] * 4
    calls.clear()
    assert await begin(sender, leases[12:16]) == ["granted"] * 4
    assert "grant" not in calls
    await spread.control.set_rate("email", None)
    assert await permitted(spread) == {0, 1, 2, 3}


async def test_senders_own_rate_is_asked_though_partitions_have_permits(spread: World) -> None:
    """It is the limit that the channel has while none was set at run time."""
    sender = await spread.sender(policy=BeginPolicy(gap_us=GAP_US, concurrency=100))
    await spread.given(8)
    assert await permitted(spread) == {0, 1, 2, 3}
    assert sorted(await begin(sender, await sender.fetch(8))) == ["granted", *["limited"] * 7]


async def test_partition_without_a_record_asks(spread: World) -> None:
    """It is new, or its server lost its data: then the limits are asked until a sender has checked twice."""
    sender = await spread.sender()
    await spread.given(8)
    leases = await sender.fetch(8)
    for one in spread.partitions:
        await spread.redis.delete(one.keys.key("config"))
    await spread.redis.hset(limits_partition(spread.redis, "email").keys.key("config"), "gap_us", GAP_US)
    assert sorted(await begin(sender, leases)) == ["granted", *["limited"] * 7]
    await spread.redis.delete(limits_partition(spread.redis, "email").keys.key("config"))
    rates = Rates(spread.redis, "email")
    await rates.check()
    assert await permitted(spread) == set()
    await rates.check()
    assert await permitted(spread) == {0, 1, 2, 3}


async def test_permit_that_a_failover_brought_back_is_withdrawn(spread: World) -> None:
    """By the next check of any sender or the doctor; a sender that starts withdraws it before it begins anything."""
    for at_start in (False, True):
        await spread.sender()
        await spread.control.set_rate("email", Rate(1, 1.0))
        assert await permitted(spread) == set()
        await spread.redis.hset(spread.partitions[2].keys.key("config"), mapping={"permit": "1", "told": "1"})
        if at_start:
            await spread.sender()
        else:
            assert await Copies(spread.redis, "email", "doctor", repair=False).check_rate() == 1
            assert await permitted(spread) == {2}
            assert await Copies(spread.redis, "email", "c").check_rate() == 1
        assert await permitted(spread) == set()
        await spread.control.clear_rate("email")


async def test_rate_is_set_while_a_partition_is_away(spread: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client gets an error; the rate holds in the others, and in this one once a sender has reached it."""
    sender = await spread.sender()
    call = Partition.call

    async def call_if_there(self: Partition, script: str, args: Sequence[Argument] = ()) -> Any:
        if self.keys == spread.partitions[1].keys:
            raise QueueUnavailableError("away")
        return await call(self, script, args)

    with monkeypatch.context() as patched:
        patched.setattr(Partition, "call", call_if_there)
        with pytest.raises(QueueUnavailableError):
            await spread.control.set_rate("email", Rate(1, 1.0))
    assert await permitted(spread) == {1}
    assert (await spread.control.channel_stats("email")).rate == ("1/1s", "api")
    await Copies(spread.redis, "email", sender.name).check_rate()
    assert await permitted(spread) == set()


async def test_permit_that_comes_late_is_ignored(spread: World) -> None:
    """The call that gives it was under way while another withdrew it and set a rate."""
    late = await limits_partition(spread.redis, "email").call("set_rate", (0, "", ""))
    await spread.control.set_rate("email", Rate(1, 1.0))
    assert [await one.call("set_permit", (late, 1)) for one in spread.partitions] == [0] * 4
    assert await permitted(spread) == set()


async def test_job_that_must_be_sent_alone_is_not_begun_beside_one_that_asks(spread: World) -> None:
    """One with a limit of its own is granted alone in a partition without a permit: the others wait."""
    sender = await spread.sender()
    await spread.given(2)
    suspect, other = await sender.fetch(2)
    partition = spread.partitions[consumers_of(sender).place_of(suspect)]
    await spread.redis.hset(partition.keys.key("stalls"), suspect.job_id, "1 0 1 none 0")
    await spread.redis.hdel(partition.keys.key("config"), "permit")
    requests = [BeginRequest(other), BeginRequest(suspect, limit="x", limit_gap_us=1)]
    assert [grant.kind for grant in await consumers_of(sender).begin(requests, 0)] == ["wait", "alone"]


@pytest.mark.parametrize("seed", range(12))
async def test_no_partition_has_a_permit_while_a_rate_is_in_force(
    spread: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates are set, lifted and checked by several at once, in any order of their calls; some of them die midway."""
    order = random.Random(seed)
    call, running, broken = Partition.call, asyncio.Lock(), []

    async def in_any_order(self: Partition, script: str, args: Sequence[Argument] = ()) -> Any:
        for _ in range(order.randrange(20)):
            await asyncio.sleep(0)
        if order.random() < 0.02:
            raise asyncio.CancelledError
        async with running:
            answer = await call(self, script, args)
            if await is_limited(spread) and (having := await permitted(spread)):
                broken.append((script, args, having))
        return answer

    async def change() -> None:
        rates, copies = Rates(spread.redis, "email"), Copies(spread.redis, "email", "c")
        steps = (lambda: rates.set(order.randrange(1, GAP_US), "1/1s"), lambda: rates.set(0, ""), copies.check_rate)
        for _ in range(8):
            await asyncio.gather(order.choice(steps)(), return_exceptions=True)

    await spread.sender()
    monkeypatch.setattr(Partition, "call", in_any_order)
    await asyncio.gather(*(change() for _ in range(5)))
    assert broken == []
    monkeypatch.undo()
    for gap_us, expected in ((GAP_US, set()), (0, {0, 1, 2, 3})):
        await Rates(spread.redis, "email").set(gap_us, "1/1s" if gap_us else "")
        assert await permitted(spread) == expected
