"""Lifecycle: the end of a service's process, seen from outside."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import asyncio, sys
from pathlib import Path
from shared.errors import SettingsError
from shared.lifecycle import Stop, run_service
from shared.logs import configure_logging, get_logger
from shared.settings import EnvReader, read_common

async def main(stop: Stop) -> None:
    configure_logging("thing", read_common(EnvReader({{"KURIR_LOG_DIR": {folder!r}}}), 0))
    {body}

run_service("thing", main)
"""


def _start(folder: Path, body: str) -> subprocess.Popen[str]:
    program = _PROGRAM.format(folder=str(folder), body=body)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_stop_and_the_service_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the wait, and the process exits with 0."""
    with _start(tmp_path, "print('up', flush=True); await stop.wait(); print('bye', stop.is_set())") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.communicate(timeout=60)[0] == "bye True\n"
    assert process.returncode == 0


def test_settings_problems_go_to_stderr_and_exit_with_2(tmp_path: Path) -> None:
    """Each problem is a separate line, without a traceback."""
    with _start(tmp_path, "raise SettingsError(['KURIR_A is required', 'KURIR_B: no'])") as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr == "kurir thing: KURIR_A is required\nkurir thing: KURIR_B: no\n"


def test_settings_problems_inside_a_task_group_exit_with_2(tmp_path: Path) -> None:
    """A SettingsError wrapped by a TaskGroup is still a settings problem."""
    with _start(tmp_path, "raise ExceptionGroup('tasks', [SettingsError(['port taken'])])") as process:
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (2, "kurir thing: port taken\n")


def test_an_unexpected_error_is_logged_with_its_traceback(tmp_path: Path) -> None:
    """The exit code is 1 and error.log has the traceback, without an explicit flush."""
    with _start(tmp_path, "raise ZeroDivisionError('boom')") as process:
        process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ZeroDivisionError: boom" in (tmp_path / "error.log").read_text()
