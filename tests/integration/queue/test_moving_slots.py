"""A cluster moves a partition's slot from node to node, key by key: no script sees, or changes, half of its keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from shared.errors import QueueUnavailableError
from shared.queue.connection import connect, translated
from shared.queue.consumer import BeginPolicy, Consumer
from shared.queue.keys import PartitionKeys
from shared.queue.partitions import Partition
from shared.queue.scripts import load_script
from tests.clusters import PATIENT
from tests.integration.queue.test_partitions import OF_STREAMS, SCRIPTS
from tests.integration.queue.world import HandSender, World
from tests.servers import Kind, RedisServer, wait_for

KEYS = PartitionKeys("email")
LAST_SLOT = 16383


@dataclass
class Node:
    """A node of a cluster, and a client of it."""

    server: RedisServer
    redis: Redis

    async def ask(self, *words: str | int) -> Any:
        """Send a command unchanged."""
        client: Any = self.redis
        answer = await client.execute_command(*words)
        return answer.decode() if isinstance(answer, bytes) else answer

    async def knows_the_slots(self) -> bool:
        """Whether this node knows who has each slot."""
        return bool((await self.ask("CLUSTER INFO"))["cluster_state"] == "ok")

    async def keys(self) -> dict[str, bytes | None]:
        """Return the keys of the partition on this node, and their contents."""
        names = await self.ask("CLUSTER GETKEYSINSLOT", await self.ask("CLUSTER KEYSLOT", KEYS.tag), 1000)
        found: dict[str, bytes | None] = {}
        for name in names:
            await self.ask("ASKING")  # the slot may be moving here
            found[str(name)] = await self.redis.dump(name)
        return found


def start_node(kind: Kind) -> Node:
    server = RedisServer(kind, ["--cluster-enabled", "yes", *PATIENT])
    server.start()
    return Node(server, connect(server.url, max_connections=1))


@pytest_asyncio.fixture(params=["valkey", "redis"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes, of which the first has every slot."""
    source, target = start_node(request.param), start_node(request.param)
    try:
        await source.ask("CLUSTER ADDSLOTSRANGE", 0, LAST_SLOT)
        await source.ask("CLUSTER MEET", "127.0.0.1", target.server.port)
        for node in (source, target):
            await wait_for(node.knows_the_slots, what="both nodes know who has the slots")
        yield source, target
    finally:
        for node in (source, target):
            await node.redis.aclose()
            node.server.destroy()


async def begin_move(source: Node, target: Node) -> int:
    """Begin to move the partition's slot; return it."""
    slot = int(await source.ask("CLUSTER KEYSLOT", KEYS.tag))
    await target.ask("CLUSTER SETSLOT", slot, "IMPORTING", await source.ask("CLUSTER MYID"))
    await source.ask("CLUSTER SETSLOT", slot, "MIGRATING", await target.ask("CLUSTER MYID"))
    return slot


async def move(source: Node, target: Node, name: str) -> None:
    assert await source.ask("MIGRATE", "127.0.0.1", target.server.port, name, 0, 30_000) == "OK"


async def check_nothing_runs(source: Node, target: Node) -> None:
    """Call every script at both nodes, at the target with ASKING: each is refused, and nothing changes."""
    before = [await node.keys() for node in (source, target)]
    for name in SCRIPTS - OF_STREAMS:
        with pytest.raises(QueueUnavailableError):
            await Partition(source.redis, KEYS).call(name)
        asking = target.redis.pipeline(transaction=False)
        asking.execute_command("ASKING")
        asking.execute_command("EVAL", load_script(name).source, len(KEYS.routing), *KEYS.routing)
        with pytest.raises(QueueUnavailableError, match="during rehashing"), translated(name):
            await asking.execute()
    assert [await node.keys() for node in (source, target)] == before


async def test_no_script_runs_on_half_of_a_partition(nodes: tuple[Node, Node]) -> None:
    """Neither before the first key has moved, nor once some have; at the new node work continues where it was."""
    source, target = nodes
    world = World(source.redis)
    blast = await world.given(4)
    sender = await world.sender()
    leases = await sender.take(2)
    slot = await begin_move(source, target)
    await check_nothing_runs(source, target)
    await move(source, target, KEYS.bell)
    await check_nothing_runs(source, target)
    first, *rest = await source.keys()
    for name in rest:
        await move(source, target, name)
    await check_nothing_runs(source, target)
    await move(source, target, first)
    for node in (target, source):
        await node.ask("CLUSTER SETSLOT", slot, "NODE", await target.ask("CLUSTER MYID"))
    moved = World(target.redis, world.timing)
    partition = moved.partition
    again = HandSender(Consumer(partition, sender.name, world.timing, BeginPolicy()))
    assert await again.finish(*leases) == [True, True]
    assert len(await (await moved.sender()).take(10)) == 2
    await moved.check_balance()
    counts = await moved.redis.hmget(KEYS.blast(blast.blast_id), "enqueued", "sent", "processing")
    assert counts == [b"4", b"2", b"2"]
