"""A seeded random mix of faults on a cluster of three masters and three replicas; the oracle checks everything.

Attacks G1 to G5 and G7. A failover may lose and repeat what `docs/guarantees.md` says, job by job, and nothing else.
Services find the nodes by themselves, so there is no proxy before Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.queue.slots import slot_of
from tests.clusters import Cluster, move_slot, role_of
from tests.faults.checks import Checks
from tests.faults.form import Form
from tests.faults.load import LIMITED
from tests.faults.lost_masters import lose_node
from tests.faults.mix import PATIENCE_S, Fault, Mix
from tests.faults.oracle import Oracle
from tests.faults.world import Design, World, running
from tests.servers import RedisServer

# a minute of failovers is much for every run of the tests; the single faults on a cluster are in each of them
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.soak]
# longer than a call waits for its answer, which could otherwise come from a master that has been replaced
_FROZEN_S = 8.0
_BEHIND_S = (0.0, 0.2, 1.0)  # how far the replica of a lost master is behind
_SHORT_S = 25.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(form: Form) -> AsyncIterator[World]:
    """Three senders with a mail proxy each, four partitions, and blasts that a replica must have."""
    rates = f"{LIMITED}=100/1s"
    env = {"KURIR_SANDBOX_LATENCY_MS": "10", "KURIR_EMAIL_DOMAIN_RATES": rates, "KURIR_REDIS_REPLICAS": "1"}
    design = Design(3, whatsapp=True, mail_proxy=True, mail_timeout_s=5.0, env=env, cluster=True, partitions=4)
    async with running(form, design) as world:
        yield world


class ClusterMix(Mix):
    """The faults of a cluster, which is whole again after each of them."""

    def __init__(self, world: World, oracle: Oracle) -> None:
        super().__init__(world, oracle)
        assert world.cluster is not None
        self._cluster: Cluster = world.cluster
        self.failovers = 0
        self.faults += [
            self.kill_master,
            self.kill_master,
            self.kill_master,
            self.freeze_master,
            self.freeze_master,
            self.hand_over,
            self.kill_node_for_a_while,
            self.freeze_node_for_a_while,
            self.kill_replica,
            self.kill_all_nodes,
            self.move_slots,
            self.move_slots,
            self.reset_connections,
            self.flush_scripts,
            self.limit_the_rate,
            self.pause_a_channel,
        ]

    async def kill_master(self) -> None:
        """Its replica takes over; it comes back as a replica."""
        await self._fail_over(freeze=False)

    async def freeze_master(self) -> None:
        """Its replica takes over; it continues, and finds that it is a replica."""
        await self._fail_over(freeze=True)

    async def _fail_over(self, *, freeze: bool) -> None:
        tag = self._tag()
        node = self._cluster.owner_of(slot_of(tag))
        replica = self._cluster.replica_of(node)
        if behind_s := self.random.choice(_BEHIND_S):
            await self._cluster.cut_link(node)
            await asyncio.sleep(behind_s)
        lost = await lose_node(self.world, tag, freeze=freeze)
        self.oracle.note_failover(lost)
        await self._cluster.promote(replica)
        self.failovers += 1
        if freeze:
            await asyncio.sleep(max(self.world.form.seconds(20.0), _FROZEN_S))
            node.resume()
        await self._restore()
        await self.load.ask_again(lost)

    async def hand_over(self) -> None:
        """A replica takes over from a master that runs, as in a rolling upgrade: nothing is lost or repeated."""
        await self._cluster.hand_over(self._cluster.replica_of(self._node()))
        await self._restore()

    async def kill_node_for_a_while(self) -> None:
        """No replica takes over."""
        node = self._node()
        node.kill()
        await self.some_seconds(20.0)
        await self._restore()

    async def freeze_node_for_a_while(self) -> None:
        """No replica takes over, and nothing is sent twice, however many leases lapse."""
        node = self._node()
        node.pause()
        await self.some_seconds(20.0)
        node.resume()
        await self._restore()

    async def kill_replica(self) -> None:
        """No blast is accepted in its master's partitions meanwhile."""
        replica = self._cluster.replica_of(self._node())
        replica.kill()
        await self.some_seconds(10.0)
        await self._restore()

    async def kill_all_nodes(self) -> None:
        """They come back with their data."""
        for node in self._cluster.nodes:
            node.kill()
        await self.some_seconds(30.0)
        await self._restore()

    async def move_slots(self) -> None:
        """A partition moves to another node, key by key, while its jobs are sent."""
        slot = slot_of(self._tag())
        source = self._cluster.owner_of(slot)
        masters = [node for node in self._cluster.nodes if node is not source and role_of(node) == b"master"]
        await move_slot(self._cluster, slot, self.random.choice(masters))

    async def reset_connections(self) -> None:
        for node in self._cluster.nodes:
            await asyncio.to_thread(node.command, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def flush_scripts(self) -> None:
        for node in self._cluster.nodes:
            await asyncio.to_thread(node.command, "SCRIPT", "FLUSH", "SYNC")

    async def limit_the_rate(self) -> None:
        """A limit is set at run time, and lifted."""
        path = f"/api/v1/channels/{self.random.choice(['email', 'whatsapp'])}"
        await self._ask("PATCH", path, {"rate": f"{self.random.choice([20, 50, 200])}/1s"})
        await self.some_seconds(20.0)
        await self._ask("PATCH", path, {"rate": None})

    async def pause_a_channel(self) -> None:
        path = f"/api/v1/channels/{self.random.choice(['email', 'whatsapp'])}"
        await self._ask("POST", f"{path}/pause", {"reason": "of the mix"})
        await self.some_seconds(10.0)
        await self._ask("POST", f"{path}/resume")

    async def _ask(self, method: str, path: str, body: object = None) -> None:
        status = await self.world.client.insist(method, path, PATIENCE_S, json=body)
        assert status == 200, (method, path, status)

    async def _restore(self) -> None:
        await asyncio.to_thread(self._cluster.restore)

    def _tag(self) -> str:
        """Draw a partition."""
        return self.random.choice(self.world.tags)

    def _node(self) -> RedisServer:
        """Draw a master that has a partition."""
        return self._cluster.owner_of(slot_of(self._tag()))


async def test_random_mix_of_faults_on_a_cluster(world: World, oracle: Oracle, checks: Checks) -> None:
    """G1 to G5, G7: random faults in random order, failovers among them; a master is killed first."""
    mix = ClusterMix(world, oracle)
    first: list[Fault] = [mix.kill_master, mix.move_slots, mix.freeze_node_for_a_while]
    await mix.run(checks, min(world.form.mix_s, _SHORT_S) if world.form.name == "short" else world.form.mix_s, first)
    await mix.conclude(checks)
    delivered = world.deliveries.by_job()
    affected = set().union(*(lost.ended | lost.in_mid_send for lost in oracle.failovers))
    again = sum(len(delivered.get(job_id, ())) > 1 for job_id in affected)
    print(f"{mix.words()}, {mix.failovers} failovers, {again} of {len(affected)} jobs repeated")  # noqa: T201 -- for pytest -s
