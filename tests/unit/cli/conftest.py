"""A server for the commands that call the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cli.test_api_client import Api


@pytest.fixture
def api() -> Iterator[Api]:
    """A server for one test."""
    server = Api()
    yield server
    server.close()
