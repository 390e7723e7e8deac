"""A cluster of three masters and three replicas, on which the queue has four partitions: nodes die, freeze, change.

Attacks G1 and G2 (only what a failover may repeat: docs/guarantees.md), G4, G5, G7. A blast counts as accepted once a
replica has it (KURIR_REDIS_REPLICAS=1), so a failover loses none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.blasts import partition_of
from shared.queue.keys import PartitionKeys
from shared.queue.slots import slot_of
from tests.clusters import Cluster, move_slot
from tests.faults.acts import flowing, under_way
from tests.faults.checks import Checks
from tests.faults.client import people
from tests.faults.form import Form
from tests.faults.lost_masters import lose_node
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PATIENCE_S = 90.0
LAST = PartitionKeys("email", 3).tag
_SOME = 100  # more than are in flight


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Two email senders over a cluster."""
    env = {"KURIR_SANDBOX_LATENCY_MS": "10", "KURIR_EMAIL_CONCURRENCY": "10", "KURIR_REDIS_REPLICAS": "1"}
    async with running(form, Design(email_senders=2, cluster=True, partitions=4, env=env)) as world:
        yield world


def cluster_of(world: World) -> Cluster:
    assert world.cluster is not None
    return world.cluster


@pytest.mark.parametrize("fault", ["frozen", "killed"])
async def test_node_is_away(world: World, oracle: Oracle, checks: Checks, fault: str) -> None:
    """G1, G2, G4, G7: no replica takes over. The messages of the other partitions go out and are logged meanwhile, its
    own once it is back, and each is sent once."""
    cluster = cluster_of(world)
    node = cluster.owner_of(slot_of(LAST))
    away = {part.keys.index for part in world.queue.parts if cluster.owner_of(slot_of(part.keys.tag)) is node}
    *before, posted = await under_way(world, 2000, fault)
    others = {job for job in posted.job_ids if partition_of(posted.blast_id, int(job.split(":")[1]), 4) not in away}
    assert 0 < len(others) < posted.total
    (node.pause if fault == "frozen" else node.kill)()
    since, left = time.monotonic(), len(world.deliveries.missing(others))
    try:
        await wait_for(lambda: len(world.deliveries.missing(others)) < left - _SOME, _PATIENCE_S, "others to be sent")
        flowed_s = time.monotonic() - since
        await wait_for(lambda: have_ended(world, others), _PATIENCE_S, "the others to be sent and logged")
        await asyncio.sleep(world.form.seconds(20.0) - (time.monotonic() - since))  # how long it lasts is the point
        assert world.deliveries.missing(posted.job_ids), "its own were sent without it"
    finally:
        (node.resume if fault == "frozen" else node.start)()
    checks.that("G7", flowed_s < world.form.flows_again_s, f"others flowed again after {flowed_s:.1f} s")
    async with world.queue.watching(checks):
        await oracle.audit([*before, posted], _PATIENCE_S)
    await asyncio.to_thread(cluster.restore)


async def have_ended(world: World, jobs: set[str]) -> bool:
    """Return whether jobs of one blast have been logged as sent."""
    (blast_id,) = {job.partition(":")[0] for job in jobs}
    return jobs <= {row["job_id"] for row in await world.client.rows(blast_id) if row["status"] == "sent"}


async def test_frozen_node_is_replaced(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4, G7: its replica takes over, and it comes back as a replica; as if it had been killed."""
    cluster = cluster_of(world)
    posted = await world.client.post(people(1500, "replaced"))
    await flowing(world, posted, 50)
    node = cluster.owner_of(slot_of(LAST))
    replica = cluster.replica_of(node)
    since = time.monotonic()
    lost = await lose_node(world, LAST, freeze=True)
    oracle.allow(lost.ended | lost.in_mid_send)
    checks.none("G1", lost.unknown & posted.job_ids, posted.total, "jobs of an accepted blast that no replica has")
    await cluster.promote(replica)
    # longer than the time-out of a call, or its answer could come from the old master
    await asyncio.sleep(max(world.form.seconds(20.0), 8.0) - (time.monotonic() - since))
    node.resume()
    await asyncio.to_thread(cluster.restore)
    async with world.queue.watching(checks):
        await oracle.audit([posted], _PATIENCE_S)
    await oracle.audit_database()


async def test_slots_move_under_load(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4: partitions move to other nodes, key by key, while their jobs are sent: each is sent once."""
    posted = await world.client.post(people(1500, "moving"))
    await flowing(world, posted, 50)
    async with world.queue.watching(checks):
        for part in world.queue.parts[:2]:
            await move_slot(cluster_of(world), slot_of(part.keys.tag))
        await oracle.audit([posted], _PATIENCE_S)


async def test_master_is_killed_under_load(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G4, G7: its replica takes over. Blasts accepted before and meanwhile are whole; what the replica had not
    heard of goes out twice, and so may what was in mid-send."""
    posted = await world.client.post(people(1500, "before"))
    await flowing(world, posted, 50)
    posting = asyncio.create_task(world.client.post(people(600, "meanwhile"), patience_s=_PATIENCE_S))
    cluster = cluster_of(world)
    replica = cluster.replica_of(cluster.owner_of(slot_of("{email}")))
    lost = await lose_node(world, "{email}")
    oracle.allow(lost.ended | lost.in_mid_send)
    checks.none("G1", lost.unknown & posted.job_ids, posted.total, "jobs of an accepted blast that no replica has")
    await cluster.promote(replica)
    # until the new master has a replica, no blast is accepted
    await asyncio.to_thread(cluster.restore)
    meanwhile = await posting
    async with world.queue.watching(checks):
        await oracle.audit([posted, meanwhile], _PATIENCE_S)
    await oracle.audit_database()


async def test_cluster_is_down(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1, G2, G7: all nodes die at once, and come back with their data: each job is sent once, no service exits."""
    cluster = cluster_of(world)
    lives = {name: child.lives for name, child in world.children.items()}
    posted = await under_way(world, 1200, "down")
    for node in cluster.nodes:
        node.kill()
    await asyncio.sleep(world.form.seconds(30.0))  # how long it lasts is the point
    before = world.deliveries.count()
    await asyncio.to_thread(cluster.restore)
    back = time.monotonic()
    await wait_for(lambda: world.deliveries.count() > before, _PATIENCE_S, "work to flow again")
    took_s = time.monotonic() - back
    checks.that("G7", took_s < world.form.flows_again_s, f"work flowed again after {took_s:.1f} s")
    async with world.queue.watching(checks):
        await oracle.audit(posted, _PATIENCE_S)
    exited = [name for name, child in world.children.items() if child.lives > lives[name] or not child.runs()]
    checks.none("G7", exited, len(lives), "services that exited")
    await oracle.audit_database()
    await oracle.audit_leftovers()
