"""The timer for answers, in which time of a suspended process does not count, and times as text.

The senders' integration tests block real event loops with an answer on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import clock
from shared.clock import SuspendAwareTimer, ms_of, rfc3339


class _Handle:
    """A call that the loop will make, unless it is cancelled."""

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Loop:
    """An event loop whose time the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[_Handle] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> _Handle:
        self.calls.append(_Handle(self.now + delay, lambda: callback(*args)))
        return self.calls[-1]

    def continue_at(self, now: float) -> None:
        """Run the calls that are due, as a loop does that runs again at this time."""
        self.now = now
        due = [one for one in self.calls if one.at <= now and not one.cancelled]
        self.calls = [one for one in self.calls if one.at > now]
        for one in due:
            one.call()


@pytest.fixture
def loop() -> _Loop:
    return _Loop()


def _started(loop: _Loop, seconds: float) -> tuple[SuspendAwareTimer, list[float]]:
    expired: list[float] = []
    timer = SuspendAwareTimer(cast("asyncio.AbstractEventLoop", loop), lambda: expired.append(loop.now))
    timer.start(seconds)
    return timer, expired


def test_a_timer_expires_when_it_is_due(loop: _Loop) -> None:
    """It expires once, also when it is a little late, as every timer is."""
    _, expired = _started(loop, 10.0)
    loop.continue_at(109.9)
    assert expired == []
    loop.continue_at(110.01)
    loop.continue_at(150.0)
    assert expired == [110.01]


def test_time_in_which_the_process_was_suspended_does_not_count(loop: _Loop) -> None:
    """A late timer waits again for as long as it was late, so that answers in the sockets are read first."""
    _, expired = _started(loop, 10.0)
    loop.continue_at(113.0)
    loop.continue_at(115.9)
    assert expired == []
    loop.continue_at(116.0)
    assert expired == [116.0]


def test_a_timer_waits_at_most_twice_as_long(loop: _Loop) -> None:
    """After a long suspension it waits its own time once more; in a process that is always late, no longer."""
    _, expired = _started(loop, 10.0)
    loop.continue_at(1000.0)
    loop.continue_at(1009.9)
    assert expired == []
    loop.continue_at(1010.0)
    assert expired == [1010.0]


@pytest.mark.parametrize("late_s", [0.5, 3.0, 9.0])
def test_a_process_that_is_always_late_adds_its_lateness_once(
    loop: _Loop, late_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra waits add up to the timer's own time at most, however often it is late."""
    monkeypatch.setattr(clock, "SUSPENDED_S", 0.0)
    _, expired = _started(loop, 10.0)
    waited_s = 10.0
    while not expired:
        before = loop.now
        (call,) = loop.calls
        waited_s += call.at - before if before > 100.0 else 0.0
        loop.continue_at(call.at + late_s)
    assert waited_s == pytest.approx(20.0)


def test_a_cancelled_timer_does_not_expire(loop: _Loop) -> None:
    """Neither before it is due nor during its extra wait; cancelling it twice does no harm."""
    timer, expired = _started(loop, 10.0)
    loop.continue_at(113.0)
    timer.cancel()
    timer.cancel()
    loop.continue_at(200.0)
    assert expired == []


def test_a_timer_started_for_each_answer_makes_no_call_of_its_own_for_each(loop: _Loop) -> None:
    """A thousand quick answers cost one call of the loop; the answer that does not come is overdue at its own time."""
    timer, expired = _started(loop, 10.0)
    for _ in range(1024):
        timer.stop()
        loop.now += 1 / 1024
        timer.start(10.0)
    assert len(loop.calls) == 1
    loop.continue_at(110.0)
    assert expired == []
    loop.continue_at(111.0)
    loop.continue_at(150.0)
    assert expired == [111.0]


def test_a_stopped_timer_does_not_expire_and_rests(loop: _Loop) -> None:
    """Nor does it wake the loop again until it is started."""
    timer, expired = _started(loop, 10.0)
    timer.stop()
    loop.continue_at(110.0)
    assert (expired, loop.calls) == ([], [])
    timer.start(5.0)
    loop.continue_at(115.0)
    assert expired == [115.0]


def test_a_shorter_wait_after_a_longer_one_expires_at_its_own_time(loop: _Loop) -> None:
    """The call that was made for the longer one is not waited for, and does not count as a suspension."""
    timer, expired = _started(loop, 10.0)
    timer.stop()
    timer.start(2.0)
    loop.continue_at(102.0)
    assert expired == [102.0]
    timer.start(20.0)
    loop.continue_at(110.0)
    loop.continue_at(121.9)
    assert expired == [102.0]
    loop.continue_at(122.0)
    assert expired == [102.0, 122.0]


def test_a_suspension_counts_from_the_time_of_the_latest_start(loop: _Loop) -> None:
    """The timer that is late was made for an earlier answer: the wait continues for as long as this one was late."""
    timer, expired = _started(loop, 10.0)
    timer.stop()
    loop.now = 104.0
    timer.start(10.0)
    loop.continue_at(117.0)  # due at 114: three seconds late
    loop.continue_at(119.9)
    assert expired == []
    loop.continue_at(120.0)
    assert expired == [120.0]


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_a_written_time_is_read_to_the_millisecond(ms: int) -> None:
    """Any time from the year 1 until the year 9999 is the same after it was written, with a year of four digits."""
    assert len(rfc3339(ms)) == len("2026-01-31T12:00:00.123Z")
    assert ms_of(rfc3339(ms)) == ms


def test_a_time_before_the_first_year_is_written_as_its_beginning() -> None:
    """Midnight of the first day in a zone ahead of UTC is such a time."""
    assert rfc3339(-62_135_596_800_001) == "0001-01-01T00:00:00.000Z"


def test_times_in_other_forms_are_read_too() -> None:
    """A row of another system has other digits, or another zone."""
    assert ms_of("2026-01-31T12:00:00+00:00") == ms_of("2026-01-31T12:00:00.000Z")
    assert ms_of("2026-01-31T14:00:00.250000+02:00") == ms_of("2026-01-31T12:00:00.250Z")
