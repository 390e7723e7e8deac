"""How fast the messages of blasts end."""

from __future__ import annotations

from services.ingest.storage.running_blasts import BlastRates
from tests.clocks import HandClock


def test_a_rate_covers_the_last_seconds() -> None:
    """The rate covers the last seconds, not the whole life of the blast; it is unknown at first."""
    clock = HandClock(0.0)
    rates = BlastRates(clock)
    assert rates.note("b", 0) is None
    clock.now = 2.0
    assert rates.note("b", 100) == 50.0
    clock.now = 40.0
    assert rates.note("b", 5000) is None
    clock.now = 50.0
    assert rates.note("b", 5010) == 1.0
