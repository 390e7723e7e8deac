"""Duplicates: every repeated address is found, however many there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ingest.blasts.duplicates import Duplicates


@pytest.mark.parametrize("count", [1, 499, 500, 501, 3000])
@pytest.mark.parametrize("in_memory", [100, 1_000_000], ids=["spilled", "in memory"])
def test_repeated_addresses_are_found(tmp_path: Path, count: int, in_memory: int) -> None:
    """The second and later occurrences on a channel are; those on another channel are not."""
    duplicates = Duplicates(tmp_path, in_memory)
    for position in range(count):
        duplicates.add(position, position % 2, f"r{position // 2 % 400}@example.com")
    found = duplicates.positions()
    duplicates.close()
    assert [place for place in range(count) if place in found] == list(range(800, count))
    assert len(found) == max(0, count - 800)
