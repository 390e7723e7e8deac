"""Masters that die or freeze: what the replica that takes over does not have, job by job.

The dead master's append-only file has every write that it acknowledged. The replica is read before it takes over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.blasts import partition_of
from shared.queue.keys import PartitionKeys
from shared.queue.slots import slot_of
from tests.faults.queue_view import BlastMarks, QueueView
from tests.faults.world import World
from tests.servers import RedisServer, read_info, wait_for

_QUIET_S = 0.05
_FLOW_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class LostMaster:
    """The jobs that a failover affects, by job id.

    `ended` had ended on the lost master but not on its replica; `in_mid_send` were in mid-send when it died;
    `unknown` never reached the replica. `kept` are all jobs that either of them had. `uploads` are the blasts of which
    the replica had not heard of a chunk, each in the partition with a hash tag; `cancelled` those whose cancellation it
    had not heard of. `lost_at` is in seconds since the epoch.
    """

    ended: frozenset[str]
    in_mid_send: frozenset[str]
    unknown: frozenset[str]
    kept: frozenset[str] = frozenset()
    uploads: frozenset[tuple[str, str]] = frozenset()
    cancelled: frozenset[str] = frozenset()
    lost_at: float = field(default_factory=time.time)

    def is_added_again(self, job_id: str, partitions: int) -> bool:
        """Return whether a job had ended that the replica had not even heard of: ingest adds it again."""
        blast_id, index, channel = job_id.split(":")
        tag = PartitionKeys(channel, partition_of(blast_id, int(index), partitions)).tag
        return (tag, blast_id) in self.uploads and job_id not in self.kept


@dataclass(frozen=True, slots=True)
class _State:
    """What a server has: its jobs with their runs, those in mid-send, and the blasts of each partition."""

    jobs: Mapping[str, int]
    in_mid_send: set[str]
    blasts: Mapping[tuple[str, str], BlastMarks]


async def lose_master(world: World) -> LostMaster:
    """Kill the master; return what its replica, cut off before or not, does not have."""
    servers = world.servers
    servers.master.kill()
    lost_at = time.time()
    known = await _state_of(QueueView(servers.replica.url))
    return _difference(known, await _state_on_disk(servers.master, 1, set()), lost_at)


async def lose_node(world: World, tag: str, *, freeze: bool = False) -> LostMaster:
    """Kill or freeze the node of a cluster that has a partition; return what its replica does not have of all there.

    The replica does not take over before it is told to (`Cluster.promote`).
    """
    assert world.cluster is not None
    cluster = world.cluster
    owners = await asyncio.to_thread(lambda: {one: cluster.owner_of(slot_of(one)) for one in world.tags})
    node = owners[tag]
    replica = await asyncio.to_thread(cluster.replica_of, node)
    tags = {one for one, owner in owners.items() if owner is node}
    (node.pause if freeze else node.kill)()
    lost_at = time.time()
    await _has_read_all(replica)
    known = await _state_of(QueueView(replica.url, world.partitions, tags), readonly=True)
    return _difference(known, await _state_on_disk(node, world.partitions, tags), lost_at)


async def _has_read_all(replica: RedisServer) -> None:
    """Wait until a replica has applied all that its lost master had sent."""
    seen = ""

    async def stands_still() -> bool:
        nonlocal seen
        before = seen
        seen = (await asyncio.to_thread(read_info, replica.port, "replication"))["slave_repl_offset"]
        await asyncio.sleep(_QUIET_S)
        return seen == before

    await wait_for(stands_still, _FLOW_TIMEOUT_S, "the replica to stand still")


async def _state_on_disk(server: RedisServer, partitions: int, tags: set[str]) -> _State:
    copy = await asyncio.to_thread(server.copy, options=())
    try:
        await asyncio.to_thread(copy.start)
        return await _state_of(QueueView(copy.url, partitions, tags))
    finally:
        await asyncio.to_thread(copy.destroy)


async def _state_of(view: QueueView, *, readonly: bool = False) -> _State:
    reader: Any = view.redis
    try:
        if readonly:  # a replica of a cluster answers to connections that ask so: the pool's, which it gives out again,
            await reader.execute_command("READONLY")
            reader._shared_by_keys = reader._share()  # and the one of commands about keys
            await reader._shared_by_keys.call(["READONLY"])
        return _State(await view.runs(), await view.in_mid_send(), await view.blasts())
    finally:
        await view.close()


def _difference(known: _State, left: _State, lost_at: float) -> LostMaster:
    """Compare what a replica has with what the lost master had."""
    nothing = BlastMarks(0, cancelled=False)
    # a further run of a failed job waits in the log's outbox until the replicas have it
    unknown = {job_id for job_id, run in left.jobs.items() if run == 1 and job_id not in known.jobs}
    behind = {place: known.blasts.get(place, nothing) for place in left.blasts}
    return LostMaster(
        ended=frozenset(job_id for job_id, run in known.jobs.items() if left.jobs.get(job_id) != run),
        in_mid_send=frozenset(left.in_mid_send),
        unknown=frozenset(unknown),
        kept=frozenset(known.jobs.keys() | left.jobs.keys()),
        uploads=frozenset(place for place, marks in behind.items() if marks.enqueued < left.blasts[place].enqueued),
        cancelled=frozenset(
            blast_id
            for (_, blast_id), marks in behind.items()
            if left.blasts[_, blast_id].cancelled and not marks.cancelled
        ),
        lost_at=lost_at,
    )
