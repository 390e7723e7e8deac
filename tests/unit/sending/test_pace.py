"""How late a sender's starts may be, given how late they were."""

from __future__ import annotations

import pytest

from shared.sending.pace import Pace

ALLOWED_MS, MOST_MS = 35, 1000


@pytest.mark.parametrize(
    ("late_s", "late_ms"), [(0.0, 0), (0.028, 0), (0.03, 16), (0.06, 64), (0.3, 512), (0.7, 1000), (30.0, 1000)]
)
def test_a_late_start_makes_room_for_the_next(late_s: float, late_ms: int) -> None:
    """A quarter more than the delay seen, less what is allowed anyway, rounded up to a few values, with a bound."""
    pace = Pace()
    pace.started(late_s)
    assert pace.late_ms(ALLOWED_MS, MOST_MS) == late_ms


def test_a_late_start_is_forgotten_over_the_next() -> None:
    """A late start counts less with each start in time, and no longer after fifty."""
    pace = Pace()
    pace.started(0.3)
    seen = []
    for _ in range(50):
        pace.started(0.002)
        seen.append(pace.late_ms(ALLOWED_MS, MOST_MS))
    assert seen == sorted(seen, reverse=True)
    assert seen[1] == 512
    assert seen[-1] == 0


def test_a_long_outage_is_forgotten_as_soon_as_a_delay_of_ten_seconds() -> None:
    """A start that waited for Redis for minutes does not slow its limit for minutes."""
    pace = Pace()
    pace.started(600.0)
    for _ in range(75):
        pace.started(0.002)
    assert pace.late_ms(ALLOWED_MS, MOST_MS) == 0
