"""The queue on a cluster of three masters and three replicas: the same paths, and no call for two slots."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from redis.exceptions import ResponseError

from shared.errors import QueueUnavailableError, SettingsError
from shared.queue.connection import connect
from shared.queue.doctor import Doctor
from shared.queue.event_log import EventLog
from shared.queue.partitions import partitions
from shared.queue.safety import SafetyCheck
from shared.queue.slots import SLOTS, slot_of
from shared.queue.spread_check import check_spread
from tests.clusters import PATIENT, Cluster, move_slot, running_cluster
from tests.integration.queue.world import World, open_world
from tests.servers import PATIENCE_S, RedisServer


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for the module's tests; those that break a node make their own."""
    with running_cluster(options=PATIENT) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def world(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An empty queue of four partitions on it, over which blasts of eight jobs are spread."""
    for module in ("shared.blasts", "tests.integration.queue.world"):
        monkeypatch.setattr(f"{module}.SPAN", 2)
    cluster.flush()
    world = open_world(cluster.url, partitions=4)
    world.spread = True
    yield world
    await world.redis.aclose()


async def test_jobs_go_from_enqueue_to_sent_on_every_node(world: World) -> None:
    """Four partitions are on more than one node; their jobs are sent, their counts add up, their events are read."""
    owners = {str((await one.server()).connection_pool.connection_kwargs["port"]) for one in world.partitions}
    assert len(owners) > 1
    blast = await world.given(40)
    sender = await world.sender()
    leases = await sender.take(100)
    assert len(leases) == 40
    assert await sender.finish(*leases[:30]) == [True] * 30
    assert await sender.retry(leases[30], 50_000)
    assert await sender.defer(leases[31], 50_000)
    assert await sender.fail(leases[32])
    progress = await world.progress(blast)
    assert (progress.counts["sent"], progress.counts["retrying"], progress.counts["processing"]) == (30, 2, 7)
    assert (await world.control.channel_stats("email")).completed == 30
    assert Counter(type(event).__name__ for event in await world.written())["Sent"] == 30
    for partition in world.partitions:
        assert await Doctor(partition, "doctor", repair=True).examine() == []
    assert await check_spread(world.redis, "email", "doctor", repair=True) == []


async def test_every_node_is_checked_for_safety(world: World) -> None:
    """One that would lose messages is found, whichever it is."""
    assert (await SafetyCheck(world.redis).run()).dangers == ()
    one = (await world.redis.every_node())[1]  # type: ignore[attr-defined]
    await one.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert [danger.reason for danger in (await SafetyCheck(world.redis).run()).dangers] == ["eviction"]
    finally:
        await one.config_set("maxmemory-policy", "noeviction")


async def test_events_of_a_quiet_partition_wait_for_no_other(cluster: Cluster, world: World) -> None:
    """A read returns as soon as any stream has an event, and a read that continues loses none."""
    redis = connect(cluster.url, partitions=4, socket_timeout_s=3 * PATIENCE_S)
    log = EventLog(redis)
    assert await log.read(100, 0.2) == []  # the groups are made
    seen: list[str] = []
    for index, partition in enumerate(partitions(world.redis, "email")):
        reading = asyncio.create_task(log.read(100, 2 * PATIENCE_S))
        await asyncio.sleep(0.05)
        await partition.call("emit_event", (b"\x93\xa1t\x01\x90",))
        async with asyncio.timeout(PATIENCE_S):  # half of what a read may wait
            entries = await reading
            while not entries:
                entries = await log.read(100, 2 * PATIENCE_S)
        seen += [entry.stream for entry in entries]
        await log.ack(entries)
        assert seen[-1] == partition.keys.events, index
    assert await log.lag() == 0
    await log.close()
    await redis.aclose()


async def test_pipeline_is_sent_slot_by_slot_and_answered_in_order(world: World) -> None:
    """Answers have the order of the commands; an error of one is raised, or returned."""
    async with world.redis.pipeline(transaction=False) as pipe:
        for number in range(20):
            pipe.set(f"key:{number}", number)
            pipe.get(f"key:{number}")
        answers = await pipe.execute()
    assert answers[1::2] == [str(number).encode() for number in range(20)]
    one: Any = world.redis.pipeline(transaction=False)
    wrong, right = await one.hget("key:3", "field").get("key:4").execute(raise_on_error=False)
    assert isinstance(wrong, ResponseError)
    assert right == b"4"
    with pytest.raises(ResponseError):
        await one.hget("key:3", "field").execute()
    with pytest.raises(ValueError, match="no transaction"):
        world.redis.pipeline()


def _has(node: RedisServer, slot: int) -> bool:
    answer = node.command("SET", f"{{{_tag_of(slot)}}}:probe", "1")
    return answer == b"+OK"


def _tag_of(slot: int) -> str:
    return next(str(number) for number in range(10 * SLOTS) if slot_of(str(number)) == slot)


async def until_served(step: Any, timeout_s: float = 60.0) -> Any:
    """Repeat a step until the cluster serves it."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await step()
            except QueueUnavailableError:
                await asyncio.sleep(0.05)


async def test_slots_move_while_jobs_are_sent(cluster: Cluster, world: World) -> None:
    """Calls wait while a slot moves; then they find it at its new node, and no job is lost or counted twice."""
    blast = await world.given(60)
    sender = await world.sender()
    leases = await sender.take(20)
    moving = [move_slot(cluster, slot_of(one.keys.tag)) for one in world.partitions[:2]]
    moved = asyncio.gather(*moving)
    assert await until_served(lambda: sender.finish(*leases)) == [True] * len(leases)
    await moved
    while more := await until_served(lambda: sender.take(20)):
        assert all(await until_served(lambda more=more: sender.finish(*more)))
    assert (await world.progress(blast)).counts["sent"] == 60
    assert await check_spread(world.redis, "email", "doctor", repair=True) == []


async def test_client_recovers_from_the_death_of_a_master(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replica takes over: calls fail until then, and nothing that was acknowledged and replicated is lost."""
    for module in ("shared.blasts", "tests.integration.queue.world"):
        monkeypatch.setattr(f"{module}.SPAN", 2)
    with running_cluster() as cluster:
        world = open_world(cluster.url, partitions=4)
        world.spread = True
        blast = await world.given(40)
        await cluster.in_step()
        dead = next(node for node in cluster.masters if _has(node, slot_of(world.partition.keys.tag)))
        dead.kill()
        sender = await until_served(world.sender)
        sent = 0
        while leases := await until_served(lambda: sender.take(20)):
            assert all(await until_served(lambda leases=leases: sender.finish(*leases)))
            sent += len(leases)
        assert sent == 40
        assert (await world.progress(blast)).ended_at_ms
        await world.redis.aclose()


async def test_client_reads_the_map_again_from_the_nodes_of_its_url() -> None:
    """Nothing answers at first; later a node of the URL does, and the client needs no restart."""
    with running_cluster() as cluster:
        world = open_world(cluster.url, partitions=4)
        for node in cluster.nodes:
            node.pause()
        impatient = connect(cluster.url, socket_timeout_s=0.5, partitions=4)
        with pytest.raises(QueueUnavailableError):
            await partitions(impatient, "email")[0].call("stats", (1,))
        for node in cluster.nodes:
            node.resume()
        await until_served(lambda: partitions(impatient, "email")[0].call("stats", (1,)))
        await impatient.aclose()
        await world.redis.aclose()


@pytest.mark.parametrize("url", ["redis+cluster://", "redis+cluster://host/3", "redis+cluster://host?nonsense=1"])
def test_url_of_a_cluster_names_nodes_and_no_database(url: str) -> None:
    """Another one is refused, without quoting it."""
    with pytest.raises((SettingsError, ValueError)):
        connect(url)


async def test_server_without_a_cluster_is_unavailable(valkey_url: str) -> None:
    """The error says what is wrong."""
    client = connect(valkey_url.replace("redis://", "redis+cluster://").removesuffix("/0"))
    with pytest.raises(QueueUnavailableError, match="cluster support disabled"):
        await partitions(client, "email")[0].call("stats", (1,))
    await client.aclose()
