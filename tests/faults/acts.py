"""The faults that a scenario commits; each registers with the oracle the duplicates that it may cause."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from shared.jobs import TERMINAL
from tests.faults.children import Child
from tests.faults.client import Posted, people
from tests.faults.oracle import Oracle
from tests.faults.queue_view import Holding
from tests.faults.world import World
from tests.servers import wait_for

_QUIET_S = 0.05
_FLOW_TIMEOUT_S = 60.0
_MEND_TIMEOUT_S = 60.0
_FEW_EVENTS = 5  # fewer are always under way
_FIRST = 50
_KURIR = Path(sys.executable).with_name("kurir")


async def flowing(world: World, posted: Posted, taken: int) -> None:
    """Wait until the provider has accepted `count` messages of a blast."""

    def is_flowing() -> bool:
        return posted.total - len(world.deliveries.missing(posted.job_ids)) >= taken

    await wait_for(is_flowing, _FLOW_TIMEOUT_S, f"{taken} messages of the blast to be taken")


async def under_way(world: World, count: int, label: str) -> list[Posted]:
    """Post a blast, and return as soon as some of it has been sent and most of it has not: it is the last one.

    On a busy machine all of one may be sent before its answer arrives; then another one is posted.
    """
    posted: list[Posted] = []
    while True:
        posted.append(await world.client.post(people(count, label)))
        await flowing(world, posted[-1], _FIRST)
        if len(world.deliveries.missing(posted[-1].job_ids)) > count / 2:
            return posted


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


async def kill_holding(
    world: World, sender: Child, oracle: Oracle, *, buffered: bool, in_flight: bool, timeout_s: float
) -> Holding:
    """Kill a sender at a moment when it holds the jobs asked for; freeze it first to read what it holds.

    Its jobs in mid-send may be sent once more. So may those of a look that outlasted its lease on a busy machine.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            began = time.monotonic()
            held = await freeze(world, sender)
            if bool(held.buffered) == buffered and bool(held.in_flight) == in_flight:
                oracle.allow(held.in_flight)
                sender.kill()
                return held
            if time.monotonic() - began > world.form.lease_s / 2:
                oracle.allow(held.in_flight)
            sender.thaw()
            await asyncio.sleep(_QUIET_S)


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
