"""The database of the logger's unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.logger.database import Database


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty database with the logger's schema."""
    made = Database()
    yield made
    made.close()
