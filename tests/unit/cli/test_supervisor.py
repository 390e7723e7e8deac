"""The supervisor, tested with small programs: restarts, orderly stops, no orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from services.cli.supervisor import ChildSpec, Supervisor
from shared.errors import SettingsError
from tests.awake import awake
from tests.servers import PATIENCE_S, wait_for

# reports that it runs, then waits for SIGTERM and reports its end; {} is its reaction to SIGTERM
_PROGRAM = """
import pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1])
def note(what):
    with log.open("a") as file:
        file.write(sys.argv[2] + " " + what + "\\n")
def end(*_):
    note("ends")
    {on_term}
signal.signal(signal.SIGTERM, end)
note("runs")
while True:
    time.sleep(60)
"""

Make = Callable[[float], Awaitable[tuple[Supervisor, list[str]]]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Make supervisors that are stopped at the end of the test."""
    made: list[Supervisor] = []

    async def run(grace_s: float = 2.0) -> tuple[Supervisor, list[str]]:
        said: list[str] = []
        made.append(Supervisor(said.append, grace_s))
        return made[-1], said

    yield run
    for supervisor in made:
        await supervisor.stop()


def _spec(log: Path, name: str, *, stage: int = 0, on_term: str = "sys.exit(0)") -> ChildSpec:
    program = _PROGRAM.format(on_term=on_term)
    return ChildSpec(name, [sys.executable, "-c", program, str(log), name], dict(os.environ), stage)


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


async def test_a_child_that_dies_is_started_again(make: Make, tmp_path: Path) -> None:
    """After kill -9 of a child, another process takes its place, and the user is informed."""
    log = tmp_path / "log"
    supervisor, said = await make(2.0)
    await supervisor.start(_spec(log, "a"))
    await wait_for(lambda: _lines(log) == ["a runs"], what="the first run")
    first = supervisor.pids()["a"]
    os.kill(first, signal.SIGKILL)
    await wait_for(lambda: _lines(log) == ["a runs"] * 2, what="the second run")
    await wait_for(lambda: supervisor.pids().get("a", first) != first, what="its process")
    assert said == ["a was ended by SIGKILL; restarting it in 0.2 s"]


async def test_a_child_that_keeps_dying_is_started_ever_more_slowly(make: Make) -> None:
    """The pauses double, so that a child that keeps dying does not use up the machine."""
    supervisor, said = await make(2.0)
    await supervisor.start(ChildSpec("a", [sys.executable, "-c", "raise SystemExit(3)"], {}))
    await wait_for(lambda: len(said) == 3, what="three deaths")
    assert [line.split()[-2] for line in said] == ["0.2", "0.4", "0.8"]


async def test_wrong_settings_are_not_retried(make: Make) -> None:
    """Exit code 2 of a child is reported through `failed`, once."""
    supervisor, said = await make(2.0)
    await supervisor.start(ChildSpec("a", [sys.executable, "-c", "raise SystemExit(2)"], {}))
    assert "a cannot run with these settings" in await asyncio.wait_for(supervisor.failed, PATIENCE_S)
    assert said == []


async def test_a_program_that_does_not_exist_is_a_settings_error(make: Make) -> None:
    """The message names the child."""
    supervisor, _ = await make(2.0)
    with pytest.raises(SettingsError, match="cannot start a"):
        await supervisor.start(ChildSpec("a", ["/nonexistent/program"], {}))


async def test_children_are_stopped_stage_by_stage(make: Make, tmp_path: Path) -> None:
    """The data store outlives the senders."""
    log = tmp_path / "log"
    supervisor, _ = await make(60.0)
    for name, stage in (("data", 2), ("recording", 1), ("sending", 0)):
        await supervisor.start(_spec(log, name, stage=stage, on_term="time.sleep(0.1); sys.exit(0)"))
    await wait_for(lambda: len(_lines(log)) == 3, what="three runs")
    await supervisor.stop()
    assert _lines(log)[3:] == ["sending ends", "recording ends", "data ends"]
    assert supervisor.pids() == {}


@pytest.mark.timing
async def test_a_child_that_ignores_sigterm_is_killed_in_time(make: Make, tmp_path: Path) -> None:
    """The stop takes at most the grace time plus a stage's allowance."""
    log = tmp_path / "log"
    supervisor, said = await make(0.3)
    await supervisor.start(_spec(log, "a", on_term="pass"))
    await wait_for(lambda: _lines(log) == ["a runs"], what="the run")
    async with awake() as spent:
        await supervisor.stop()
    assert spent.seconds < 2.0
    assert said == ["a did not stop in time and is killed"]


async def test_a_child_that_ends_when_its_time_is_over_does_not_keep_the_others_running(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wait is over and so is the process: there is nothing to kill, and the next stage is stopped as usual."""
    log = tmp_path / "log"
    supervisor, _ = await make(60.0)
    for name, stage in (("sending", 0), ("data", 1)):
        await supervisor.start(_spec(log, name, stage=stage))
    await wait_for(lambda: len(_lines(log)) == 2, what="two runs")
    late, usual = iter([True]), asyncio.wait_for

    async def late_once(waiting: Awaitable[int], seconds: float) -> int:
        code = await usual(waiting, seconds)
        if next(late, False):
            await asyncio.sleep(0.05)  # until the loop has forgotten the process
            raise TimeoutError
        return code

    monkeypatch.setattr("services.cli.supervisor.asyncio.wait_for", late_once)
    await supervisor.stop()
    assert _lines(log)[2:] == ["sending ends", "data ends"]


async def test_a_death_during_the_stop_is_no_reason_to_restart(make: Make) -> None:
    """Stopping while a child waits for its restart leaves nothing behind."""
    supervisor, said = await make(2.0)
    await supervisor.start(ChildSpec("a", [sys.executable, "-c", "raise SystemExit(3)"], {}))
    await wait_for(lambda: len(said) == 2, what="two deaths")
    await supervisor.stop()
    assert supervisor.pids() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_killing_the_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    """After kill -9 of the supervisor's process, the kernel kills its children."""
    log = tmp_path / "log"
    program = f"""
import asyncio, sys
from services.cli.supervisor import ChildSpec, Supervisor
async def main():
    supervisor = Supervisor(print, 1.0)
    await supervisor.start(ChildSpec("a", {_spec(log, "a").command!r}, {{}}))
    print(supervisor.pids()["a"], flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        await wait_for(lambda: _lines(log) == ["a runs"], what="the run")
        process.kill()
    await wait_for(lambda: not _runs(pid), what="the orphan's end")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
