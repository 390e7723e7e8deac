"""Programs of Debian's packages that tests run: found on PATH, else the test is skipped, in CI failed."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """Return the path of a program, also where only root's PATH has it."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not on PATH; CI must not skip the tests that need it")
    if found is None:
        pytest.skip(f"{name} is not on PATH")
    return found
