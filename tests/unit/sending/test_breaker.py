"""The circuit breaker, with a clock that the test moves."""

from __future__ import annotations

from shared.sending.breaker import Breaker, BreakerPolicy
from tests.clocks import HandClock


def opened(clock: HandClock) -> Breaker:
    """Return a breaker that has just opened."""
    breaker = Breaker(clock, BreakerPolicy(failures=5, open_s=60, probe_every_s=5))
    for _ in range(5):
        breaker.failed("refused")
    return breaker


def test_opens_after_five_failures_in_a_row() -> None:
    """Four failures, an answer and four more leave it closed; the fifth in a row opens it, with its reason."""
    breaker = Breaker(HandClock())
    for failures in (4, 4):
        breaker.worked()
        for _ in range(failures):
            breaker.failed("refused")
    assert breaker.admits(last_resort=True)
    breaker.failed("no route")
    assert breaker.is_open
    assert breaker.reason == "no route"
    assert breaker.enter(last_resort=True) is None


def test_rests_for_a_minute_where_another_server_serves() -> None:
    """A server with an alternative is not tried for 60 s; one without is probed after 5 s."""
    clock = HandClock()
    breaker = opened(clock)
    clock.now += 4.9
    assert not breaker.admits(last_resort=True)
    clock.now += 0.1
    assert breaker.admits(last_resort=True)
    assert not breaker.admits(last_resort=False)
    clock.now += 55
    assert breaker.admits(last_resort=False)


def test_one_probe_at_a_time() -> None:
    """While a probe is under way nothing else enters; its failure restarts the wait."""
    clock = HandClock()
    breaker = opened(clock)
    clock.now += 5
    probe = breaker.enter(last_resort=True)
    assert probe is not None
    assert probe.probe
    with probe:
        assert breaker.enter(last_resort=True) is None
        probe.failed("still refused")
    assert breaker.enter(last_resort=True) is None
    clock.now += 5
    assert breaker.enter(last_resort=True) is not None


def test_an_answer_to_the_probe_closes_it() -> None:
    """After one answer every try may enter, and it takes five failures again to open."""
    clock = HandClock()
    breaker = opened(clock)
    clock.now += 5
    probe = breaker.enter(last_resort=True)
    assert probe is not None
    with probe:
        probe.worked()
    breaker.failed("refused")
    admissions = [breaker.enter(last_resort=True) for _ in range(3)]
    assert [admission.probe for admission in admissions if admission] == [False, False, False]


def test_late_failures_leave_the_probe_alone() -> None:
    """A try from before the opening that fails late does not admit a second probe beside the first."""
    clock = HandClock()
    breaker = Breaker(clock, BreakerPolicy(failures=2, open_s=60, probe_every_s=5))
    early = breaker.enter(last_resort=True)
    assert early is not None
    breaker.failed("refused")
    breaker.failed("refused")
    clock.now += 5
    assert breaker.enter(last_resort=True) is not None
    with early:
        early.failed("timed out")
    clock.now += 5
    assert breaker.enter(last_resort=True) is None


def test_a_probe_without_a_word_is_given_back() -> None:
    """A probe that was cut off does not close the breaker, and does not block the next probe."""
    clock = HandClock()
    breaker = opened(clock)
    clock.now += 5
    probe = breaker.enter(last_resort=True)
    assert probe is not None
    with probe:
        pass
    assert breaker.is_open
    assert breaker.enter(last_resort=True) is not None


def test_scaled_policy_keeps_the_count() -> None:
    """Time constants scale, the number of failures does not."""
    assert BreakerPolicy.scaled(0.25) == BreakerPolicy(5, 15.0, 1.25)


def test_refusal_opens_at_once_until_the_server_works() -> None:
    """One refusal opens the breaker; the server is probed like one that is down, and an answer closes it."""
    clock = HandClock()
    breaker = Breaker(clock, BreakerPolicy(failures=5, open_s=60, probe_every_s=5))
    breaker.refuses("535 no")
    assert (breaker.is_open, breaker.refused, breaker.reason) == (True, True, "535 no")
    assert not breaker.admits(last_resort=False)
    clock.now += 60
    admission = breaker.enter(last_resort=False)
    assert admission is not None
    with admission:
        admission.worked()
    assert (breaker.is_open, breaker.refused, breaker.reason) == (False, False, "")


def test_server_that_refused_and_then_fails_is_down() -> None:
    """A failure after a refusal of credentials clears the refusal: the server no longer answers."""
    breaker = Breaker(HandClock())
    breaker.refuses("535 no")
    breaker.failed("connection refused")
    assert (breaker.is_open, breaker.refused, breaker.reason) == (True, False, "connection refused")


def test_closed_breaker_keeps_its_last_reason_for_people() -> None:
    """A closed breaker no longer counts as refusing; it keeps its last reason."""
    breaker = Breaker(HandClock())
    breaker.refuses("535 no")
    breaker.close()
    assert (breaker.is_open, breaker.refused, breaker.reason) == (False, False, "535 no")


def test_slow_probes_wait_twice_as_long_each_time() -> None:
    """With `slows` a last resort that stays down is probed after 5, 10, 20, 40, 60, 60 s; an answer begins again."""
    clock = HandClock()
    breaker = Breaker(clock, BreakerPolicy(failures=1, open_s=60, probe_every_s=5, slows=True))
    for _ in range(2):
        breaker.failed("refused")
        for wait_s in (5, 10, 20, 40, 60, 60):
            clock.now += wait_s - 0.1
            assert not breaker.admits(last_resort=True)
            clock.now += 0.1
            probe = breaker.enter(last_resort=True)
            assert probe is not None
            with probe:
                probe.failed("refused")
        breaker.worked()


def test_a_slow_breaker_survives_days_of_failures() -> None:
    """The wait stays at its bound after thousands of probes."""
    clock = HandClock()
    breaker = Breaker(clock, BreakerPolicy(failures=1, open_s=60, probe_every_s=5, slows=True))
    breaker.failed("refused")
    for _ in range(3000):
        clock.now += 60
        probe = breaker.enter(last_resort=True)
        assert probe is not None
        with probe:
            probe.failed("refused")
