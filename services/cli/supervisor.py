"""The supervisor: keeps the processes of one system running, and stops them in order.

Children run in their own sessions, so that Ctrl-C reaches only the supervisor, which then stops them stage by stage:
the senders first, the data store last. The kernel kills them if the supervisor itself is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from shared.errors import SettingsError
from shared.lifecycle import EXIT_SETTINGS

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
_STEADY_AFTER_S = 10.0
_STAGE_TIME_S = 0.6
_PR_SET_PDEATHSIG = 1

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process of the system; children of a lower `stage` are stopped first."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    stage: int = 0


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: Process
    started_at: float


class Supervisor:
    """Starts children, restarts those that die, and stops them all; bound to one event loop.

    Exit code 2 means that a child's settings are invalid: restarting cannot help, so `failed` is set instead.
    """

    def __init__(self, announce: Announce, grace_s: float) -> None:
        self._announce = announce
        self._grace_s = grace_s
        self._children: list[_Child] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self, spec: ChildSpec) -> None:
        """Start a child and keep it running until `stop`; raises SettingsError if its program cannot be run."""
        try:
            child = _Child(spec, await _spawn(spec), time.monotonic())
        except OSError as error:
            raise SettingsError([f"cannot start {spec.name}: {error}"]) from error
        self._children.append(child)
        self._keepers.append(asyncio.create_task(self._keep(child), name=f"keep {spec.name}"))

    def pids(self) -> dict[str, int]:
        """Return the process ids of the running children, by name."""
        return {child.spec.name: child.process.pid for child in self._children if child.process.returncode is None}

    async def stop(self) -> None:
        """Stop all children, lowest stage first; a child that exceeds its time is killed.

        Takes at most the grace time, which all stages share, plus 0.6 s for each stage.
        """
        self._stopping.set()
        left_s = self._grace_s
        for stage in sorted({child.spec.stage for child in self._children}):
            began = time.monotonic()
            members = [child for child in self._children if child.spec.stage == stage]
            await asyncio.gather(*(self._end(child, max(left_s, 0) + _STAGE_TIME_S) for child in members))
            left_s -= time.monotonic() - began
        await asyncio.gather(*self._keepers)

    async def _keep(self, child: _Child) -> None:
        """Restart a child each time it dies, with exponential backoff."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            code = await child.process.wait()
            if self._stopping.is_set():
                return
            if code == EXIT_SETTINGS:
                self._give_up(child)
                return
            if time.monotonic() - child.started_at > _STEADY_AFTER_S:
                backoff_s = _FIRST_BACKOFF_S
            self._announce(f"{child.spec.name} {_ending(code)}; restarting it in {backoff_s:g} s")
            if await self._stops_within(backoff_s):
                return
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)
            await self._respawn(child)

    def _give_up(self, child: _Child) -> None:
        if not self.failed.done():
            self.failed.set_result(f"{child.spec.name} cannot run with these settings; see its error above")

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _respawn(self, child: _Child) -> None:
        try:
            child.process = await _spawn(child.spec)
        except OSError as error:
            # no memory or no file descriptors: the dead process stays in place, so the loop tries again
            self._announce(f"cannot start {child.spec.name}: {error}")
        child.started_at = time.monotonic()
        if self._stopping.is_set() and child.process.returncode is None:
            child.process.terminate()  # `stop` saw only its predecessor

    async def _end(self, child: _Child, limit_s: float) -> None:
        process = child.process
        if process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), limit_s)
        except TimeoutError:
            self._announce(f"{child.spec.name} did not stop in time and is killed")
            with suppress(ProcessLookupError):  # it has ended in this very moment
                process.kill()
            await process.wait()


async def _spawn(spec: ChildSpec) -> Process:
    parent = os.getpid()
    return await asyncio.create_subprocess_exec(
        *spec.command,
        env=dict(spec.env),
        stdin=DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _die_with(parent),
    )


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux only); runs between fork and exec."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-code}"


# loaded before any fork: between fork and exec nothing may be imported
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
