"""Programs from Debian packages that tests run; without one the test is skipped, or fails in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """Return the path of a program, also from root's PATH."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not on PATH; CI must not skip the tests that need it")
    if found is None:
        pytest.skip(f"{name} is not on PATH")
    return found
