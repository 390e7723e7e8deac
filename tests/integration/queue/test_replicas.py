"""KURIR_REDIS_REPLICAS: a blast is accepted once that many replicas have it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.ingest.storage.idempotency import IdempotencyStore
from shared.blasts import Blast
from shared.errors import QueueUnavailableError
from shared.queue.connection import connect
from tests.faults.redis_servers import RedisServers
from tests.integration.queue.test_cluster import until_served
from tests.integration.queue.world import World
from tests.servers import PATIENCE_S


@pytest.fixture
async def servers() -> AsyncIterator[RedisServers]:
    """A master and its replica."""
    servers = RedisServers(replica=True)
    try:
        await servers.start()
        yield servers
    finally:
        servers.destroy()


@pytest.fixture
async def world(servers: RedisServers) -> AsyncIterator[World]:
    """A queue that requires one replica."""
    redis = connect(servers.master.url, socket_timeout_s=2 * PATIENCE_S)
    redis.replicas = 1
    yield World(redis)
    await redis.aclose()


async def confirm(world: World, blast: Blast) -> bool:
    """Confirm a blast; a replica may stand still for a while on a busy machine."""
    return bool(await until_served(lambda: world.blasts.confirm(blast)))


async def test_blast_is_confirmed_once_the_replica_has_it(world: World, servers: RedisServers) -> None:
    """While the replica is frozen it is not, although the master has it."""
    blast = await world.given(10)
    assert await confirm(world, blast)
    servers.replica.pause()
    try:
        other = await world.given(10)
        with pytest.raises(QueueUnavailableError, match="0 of 1 replicas"):
            await world.blasts.confirm(other)
    finally:
        servers.replica.resume()
    assert await confirm(world, other)


@pytest.mark.parametrize("lost", ["{email}:blast:", "blast:"], ids=["chunk", "snapshot"])
async def test_what_a_failover_lost_before_it_was_confirmed_is_noticed(world: World, lost: str) -> None:
    """The new master confirms what it has, and that is not the blast."""
    blast = await world.given(10)
    await world.redis.delete(f"{lost}{blast.blast_id}")
    assert not await confirm(world, blast)


async def test_server_that_became_a_replica_confirms_nothing(world: World, servers: RedisServers) -> None:
    """A failover demoted the master: it still answers reads, and callers wait for the new one as for any other."""
    blast = await world.given(10)
    assert await confirm(world, blast)
    replica = connect(servers.replica.url)
    replica.replicas = 1
    with pytest.raises(QueueUnavailableError, match="replica"):
        await World(replica).blasts.confirm(blast)
    await replica.aclose()


async def test_any_connection_may_confirm_a_blast(world: World, servers: RedisServers) -> None:
    """Also one that has written nothing, for which Valkey's WAIT answers at once: a pool may hand out another."""
    blast = await world.given(10)
    assert await confirm(world, blast)
    other = connect(servers.master.url, socket_timeout_s=2 * PATIENCE_S)
    other.replicas = 1
    servers.replica.pause()
    try:
        late = await world.given(10)
        with pytest.raises(QueueUnavailableError, match="0 of 1 replicas"):
            await World(other).blasts.confirm(late)
    finally:
        servers.replica.resume()
    assert await confirm(World(other), late)
    await other.aclose()


async def test_request_is_begun_once_the_replicas_have_its_record(world: World, servers: RedisServers) -> None:
    """A failover that lost the record alone would let a repeated request create its blast once more."""
    records = IdempotencyStore(world.redis)
    assert (await until_served(lambda: records.claim("first", "request", "b1"))).blast_id == "b1"
    servers.replica.pause()
    try:
        with pytest.raises(QueueUnavailableError, match="0 of 1 replicas"):
            await records.claim("second", "request", "b2")
    finally:
        servers.replica.resume()
    again = await until_served(lambda: records.claim("second", "request", "b3"))
    assert (again.state, again.blast_id) == ("taken_over", "b2")


async def test_blast_that_is_not_whole_is_not_confirmed(world: World) -> None:
    """Its last chunk was lost."""
    blast = await world.blast(10)
    await world.enqueue(blast, 0, 6)
    assert not await confirm(world, blast)
    await world.enqueue(blast, 6, 4)
    assert await confirm(world, blast)


async def test_nothing_is_awaited_without_a_requirement(world: World, servers: RedisServers) -> None:
    """Neither the replica nor the blast is asked for."""
    world.redis.replicas = 0  # type: ignore[attr-defined]
    servers.replica.pause()
    try:
        assert await world.blasts.confirm(world.unknown_blast(1))
    finally:
        servers.replica.resume()
