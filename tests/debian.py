"""Programs from Debian packages that tests run: installed ones, and packages unpacked into `tests/.cache` once.

Without its program a test is skipped, or fails in CI.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(__file__).resolve().parent / ".cache"


def program(name: str) -> str:
    """Return the path of a program, also from root's PATH."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return found or missing(f"{name} is not on PATH")


def unpacked(package: str) -> Path:
    """Return the root folder of an unpacked package; skip the test if it is unavailable, or fail it in CI."""
    folder = CACHE / package
    folder.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{package}.lock").open("w") as lock:
        # tests run in parallel
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "usr").exists():
            _unpack(package, folder)
    return folder


def _unpack(package: str, folder: Path) -> None:
    try:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True, timeout=60)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        missing(f"Debian's package {package} cannot be unpacked: {error}")


def missing(what: str) -> NoReturn:
    """Skip the test; in CI, fail it, since CI must not skip the tests that need a program."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
