"""One sandbox for all tests of the package, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.sandbox.running import Sandbox


@pytest.fixture(scope="package")
def running_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder: Path = tmp_path_factory.mktemp("sandbox")
    sandbox = Sandbox(folder, {"KURIR_TIME_SCALE": "0.05"})
    sandbox.start()
    yield sandbox
    assert sandbox.stop() == 0


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    """Return a sandbox without messages or faults; its `slow@` answers after half a second."""
    assert running_sandbox.call("DELETE", "/messages").status == 200
    assert running_sandbox.call("DELETE", "/faults").status == 200
    return running_sandbox
