"""The faults that a scenario commits; each registers with the oracle the duplicates that it may cause."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.jobs import TERMINAL
from shared.queue.slots import slot_of
from tests.faults.children import Child
from tests.faults.client import Posted
from tests.faults.oracle import Oracle
from tests.faults.queue_view import Holding, QueueView
from tests.faults.world import World
from tests.servers import wait_for

_QUIET_S = 0.05
_FLOW_TIMEOUT_S = 60.0
_MEND_TIMEOUT_S = 60.0
_FEW_EVENTS = 5  # fewer are always under way
_KURIR = Path(sys.executable).with_name("kurir")


async def flowing(world: World, posted: Posted, taken: int) -> None:
    """Wait until the provider has accepted `count` messages of a blast."""

    def is_flowing() -> bool:
        return posted.total - len(world.deliveries.missing(posted.job_ids)) >= taken

    await wait_for(is_flowing, _FLOW_TIMEOUT_S, f"{taken} messages of the blast to be taken")


async def freeze(world: World, sender: Child) -> Holding:
    """Freeze a sender and return what it holds, once all that it wrote to Redis has arrived.

    On a busy machine this may outlast the sender's lease, and others may take its jobs before two looks agree.
    Then every job that was in mid-send at any look counts.
    """
    sender.freeze()
    frozen_at = time.monotonic()
    held = await world.queue.holding(sender.pid)
    in_flight = set(held.in_flight)
    while True:
        await asyncio.sleep(_QUIET_S)
        again = await world.queue.holding(sender.pid)
        if again == held:
            break
        held = again
        in_flight |= again.in_flight
    if time.monotonic() - frozen_at < world.form.lease_s:
        return held
    return Holding(held.buffered, frozenset(in_flight))


async def kill(world: World, sender: Child, oracle: Oracle) -> Holding:
    """Kill a sender (SIGKILL); its jobs in mid-send may be sent once more."""
    began = time.time()
    held = await freeze(world, sender)
    oracle.allow(held.in_flight)
    pid = sender.pid
    sender.kill()
    left = await world.queue.holding(pid)
    oracle.told.append(
        f"{time.time():.3f} killed {sender.name} {pid}, frozen at {began:.3f}: {_words(held)}; left {_words(left)}"
    )
    return held


def _words(held: Holding) -> str:
    return f"buffered {sorted(held.buffered)} in flight {sorted(held.in_flight)}"


async def kill_holding(world: World, sender: Child, *, buffered: bool, in_flight: bool, timeout_s: float) -> Holding:
    """Kill a sender at a moment when it holds the jobs asked for; freeze it first to read what it holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            held = await freeze(world, sender)
            if bool(held.buffered) == buffered and bool(held.in_flight) == in_flight:
                sender.kill()
                return held
            sender.thaw()
            await asyncio.sleep(_QUIET_S)


@dataclass(frozen=True, slots=True)
class LostMaster:
    """The jobs that a failover affects, by job id.

    `ended` had ended on the lost master but not on its replica; `in_mid_send` were in mid-send when it died;
    `unknown` never reached the replica.
    """

    ended: frozenset[str]
    in_mid_send: frozenset[str]
    unknown: frozenset[str]


async def lose_master(world: World) -> LostMaster:
    """Kill the master; return what its replica, cut off before or not, does not have.

    This reads the dead master's append-only file, which has every write it acknowledged, before the promotion.
    """
    servers = world.servers
    servers.master.kill()
    known, _ = await _state(servers.replica.url)
    copy = servers.master.copy()
    await asyncio.to_thread(copy.start)
    try:
        left, in_mid_send = await _state(copy.url)
    finally:
        await asyncio.to_thread(copy.destroy)
    return LostMaster(frozenset(known - left), frozenset(in_mid_send), frozenset(left - known))


async def lose_node(world: World, tag: str, *, freeze: bool = False) -> LostMaster:
    """Kill or freeze the node of a cluster that has a partition; return what its replica does not have of all there."""
    assert world.cluster is not None
    cluster = world.cluster
    node = cluster.owner_of(slot_of(tag))
    replica = cluster.replica_of(node)
    tags = {part.keys.tag for part in world.queue.parts if cluster.owner_of(slot_of(part.keys.tag)) is node}
    (node.pause if freeze else node.kill)()
    count = len({part.keys.index for part in world.queue.parts})
    known, _ = await _state_of(QueueView(replica.url, count, tags), readonly=True)
    copy = node.copy(options=())
    await asyncio.to_thread(copy.start)
    try:
        left, in_mid_send = await _state_of(QueueView(copy.url, count, tags))
    finally:
        await asyncio.to_thread(copy.destroy)
    return LostMaster(frozenset(known - left), frozenset(in_mid_send), frozenset(left - known))


async def _state(url: str) -> tuple[set[str], set[str]]:
    """Return the jobs that a server has, and those in mid-send."""
    return await _state_of(QueueView(url))


async def _state_of(view: QueueView, *, readonly: bool = False) -> tuple[set[str], set[str]]:
    reader: Any = view.redis
    try:
        if readonly:  # a replica of a cluster answers to this connection, which the pool gives out again
            await reader.execute_command("READONLY")
        return await view.jobs(), await view.in_mid_send()
    finally:
        await view.close()


async def logged(world: World) -> None:
    """Wait until the logger has written nearly all events so far."""

    async def is_written() -> bool:
        return await world.queue.unread_events() < _FEW_EVENTS

    await wait_for(is_written, _FLOW_TIMEOUT_S, "the log to know the jobs")


async def repair(world: World, posted: Posted, oracle: Oracle) -> str:
    """G1: run the doctor's repair until every job of the blast has ended in the log; return its last findings."""
    said = ""

    async def is_mended() -> bool:
        nonlocal said
        said = await asyncio.to_thread(_doctor, world)
        rows = await world.client.rows(posted.blast_id)
        return len(rows) == posted.total and all(row["status"] in TERMINAL for row in rows)

    mended = await oracle.within(is_mended, _MEND_TIMEOUT_S)
    oracle.checks.that("G1", mended, f"the doctor leaves jobs without an end: {said}")
    return said


def _doctor(world: World) -> str:
    env = world.children["ingest"].env
    words = [str(_KURIR), "doctor", "--repair", "--older-than", "1"]
    done = subprocess.run(words, env=env, cwd=world.folder, capture_output=True, text=True, timeout=60, check=False)
    return f"doctor exited with {done.returncode}: {done.stdout}{done.stderr}"
