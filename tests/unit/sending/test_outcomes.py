"""The table of outcomes: the move, event and texts for each error."""

from __future__ import annotations

import msgspec
import pytest

from shared.errors import (
    DeferredError,
    PermanentError,
    RefusesAllError,
    SendError,
    ServerFailedError,
    StopBlastError,
    StopChannelError,
    TransientError,
    TryLaterError,
    UnavailableError,
    UncertainError,
)
from shared.events import Deferred, Ended, Event, Retrying, Returned, Sent
from shared.jobs import unpack_job
from shared.queue.leases import Lease
from shared.retry import RetryPolicy
from shared.sending.journal import EVENT_BYTES
from shared.sending.outcomes import Outcome, OutcomePolicy, Tried, accepted, late_event, refused, short_event, untouched
from shared.sending.provider import Receipt
from tests.unit.sending.leases import lease_of

USUAL = RetryPolicy()
DAY_MS = 24 * 3600 * 1000
_decode = msgspec.msgpack.Decoder(Event).decode


def outcome_of(
    error: SendError, lease: Lease | None = None, *, policy: str = "resend", retry: RetryPolicy = USUAL
) -> Outcome:
    tried = Tried(lease or lease_of(), 10_000, 5, "Hello")
    return refused(tried, error, OutcomePolicy(retry, policy, 60_000))


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (TransientError("x"), "park", "retrying"),
        (DeferredError("x"), "later", "deferred"),
        (PermanentError("x"), "ended", "failed"),
        (UnavailableError("x"), "back", "returned"),
        (StopChannelError("x"), "back", "returned"),
        (StopBlastError("x"), "back", "returned"),
        (RefusesAllError("x"), "back", "returned"),
        (UncertainError("x"), "uncertain", "retrying"),
    ],
)
def test_each_class_has_its_move(error: SendError, kind: str, name: str) -> None:
    """Only the class of the error decides the move."""
    outcome = outcome_of(error)
    assert (outcome.move.kind, outcome.name, outcome.error_class) == (kind, name, error.error_class)


@pytest.mark.parametrize(("attempt", "delay_ms"), [(1, 2000), (2, 4000)])
def test_delays_double(attempt: int, delay_ms: int) -> None:
    """The delay is 2 s after the first attempt, 4 s after the second; the event has the time."""
    outcome = outcome_of(TransientError("x", code="451", reply="451 later"), lease_of(deliveries=attempt))
    assert outcome.move.value == f"{delay_ms} {attempt}"
    event = _decode(outcome.move.event)
    assert isinstance(event, Retrying)
    assert (event.attempt, event.next_at_ms, event.code, event.message) == (
        attempt,
        10_000 + delay_ms,
        "451",
        "451 later",
    )


def test_last_attempt_makes_a_dead_letter() -> None:
    """After the third attempt the job ends, and its event has the whole job."""
    lease = lease_of(deliveries=1, attempts=2)
    event = _decode(outcome_of(TransientError("x"), lease).move.event)
    assert isinstance(event, Ended)
    assert (event.status, event.attempt) == ("failed", 3)
    assert unpack_job(event.job) == lease.job


def test_long_delays_go_to_later() -> None:
    """A delay beyond V is not parked: the job, rewritten, is due later."""
    lease = lease_of(deliveries=6)
    tried = Tried(lease, 10_000, 5, "")
    outcome = refused(tried, TransientError("x"), OutcomePolicy(RetryPolicy(max_attempts=9), "resend", 60_000))
    assert outcome.move.kind == "later"
    assert outcome.move.value == "64000 normal retried"
    assert unpack_job(outcome.move.packed).attempts == 6


@pytest.mark.parametrize(
    ("deferrals", "asked_s", "wait_ms"), [(0, None, 30_000), (1, None, 60_000), (9, None, 1_800_000), (0, 7.0, 7000)]
)
def test_deferrals_wait_as_asked_or_ever_longer(deferrals: int, asked_s: float | None, wait_ms: int) -> None:
    """The wait that the provider asks for takes precedence; the attempt is not used."""
    outcome = outcome_of(DeferredError("x", wait_s=asked_s), lease_of(deliveries=2, deferrals=deferrals))
    event = _decode(outcome.move.event)
    assert isinstance(event, Deferred)
    assert (event.deferral, event.next_at_ms) == (deferrals + 1, 10_000 + wait_ms)
    job = unpack_job(outcome.move.packed)
    assert (job.attempts, job.deferrals, job.first_deferred_at_ms) == (1, deferrals + 1, 10_000)


def test_deferring_ends_after_a_day() -> None:
    """The job fails as `gave_up`, with the provider's last reply."""
    old = lease_of(deferrals=3, first_deferred_at_ms=10_000 - DAY_MS)
    event = _decode(outcome_of(DeferredError("x", code="450", reply="450 not yet"), old).move.event)
    assert isinstance(event, Ended)
    assert (event.status, event.error_class, event.code, event.message) == ("failed", "gave_up", "450", "450 not yet")


def test_last_deferral_ends_at_the_limit() -> None:
    """A wait beyond the time to give up is shortened for one last try; after that the job is not deferred again."""
    nearly = lease_of(deferrals=9, first_deferred_at_ms=70_000 - DAY_MS)
    assert outcome_of(DeferredError("x"), nearly).move.value == "60000 normal deferred"
    too_near = lease_of(deferrals=9, first_deferred_at_ms=11_000 - DAY_MS)
    assert outcome_of(DeferredError("x"), too_near).move.value.startswith("failed")


def test_deferring_ends_with_the_expiry() -> None:
    """One last try is made a second before the job expires; then it ends as expired."""
    expiring = lease_of(expires_at_ms=20_000)
    assert outcome_of(DeferredError("x"), expiring).move.value == "9000 normal deferred"
    assert outcome_of(DeferredError("x"), lease_of(expires_at_ms=11_500)).move.value.startswith("expired")


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_try_later_uses_attempts_then_waits(most: int) -> None:
    """Retried while attempts are left, then deferred from 30 s on; the last attempt is kept."""
    retry = RetryPolicy(max_attempts=most)
    for attempt in range(1, most):
        assert outcome_of(TryLaterError("x"), lease_of(deliveries=attempt), retry=retry).name == "retrying"
    outcome = outcome_of(TryLaterError("x"), lease_of(deliveries=most), retry=retry)
    job = unpack_job(outcome.move.packed)
    assert (outcome.name, outcome.move.value, job.attempts) == ("deferred", "30000 normal deferred", most - 1)
    again = lease_of(attempts=job.attempts, deferrals=1, first_deferred_at_ms=10_000)
    assert outcome_of(TryLaterError("x"), again, retry=retry).move.value == "60000 normal deferred"


def test_deferred_job_is_not_failed_by_one_lost_connection() -> None:
    """Deferrals used its attempts: a transient error leaves the job on the deferral schedule until that ends."""
    waiting = lease_of(attempts=2, deferrals=1, first_deferred_at_ms=9_000)
    assert outcome_of(ServerFailedError("x"), waiting).name == "deferred"
    assert outcome_of(UncertainError("x"), waiting).name == "failed"
    tired = lease_of(attempts=2, deferrals=1, first_deferred_at_ms=9_000 - DAY_MS)
    assert outcome_of(ServerFailedError("x"), tired).error_class == "gave_up"


def test_without_patience_every_no_uses_an_attempt() -> None:
    """Without deferrals, "later" is retried like other errors, after the wait asked for, and fails like them."""
    retry = RetryPolicy(give_up_after_s=0)
    assert outcome_of(DeferredError("x"), retry=retry).move.value == "2000 1"
    assert outcome_of(DeferredError("x", wait_s=9), retry=retry).move.value == "9000 1"
    for error in (DeferredError("x"), TryLaterError("x")):
        assert outcome_of(error, lease_of(deliveries=3), retry=retry).move.value.startswith("failed")


@pytest.mark.parametrize(
    ("attempt", "in_a_row", "in_trouble", "name"),
    [(1, 1, False, "retrying"), (3, 1, False, "failed"), (3, 2, False, "deferred"), (1, 5, True, "deferred")],
)
def test_server_in_trouble_uses_up_no_message(attempt: int, in_a_row: int, in_trouble: bool, name: str) -> None:
    """A failure uses an attempt, but not the last one if the server keeps failing, and none if it is in trouble."""
    error = ServerFailedError("lost")
    error.in_a_row, error.in_trouble = in_a_row, in_trouble
    outcome = outcome_of(error, lease_of(deliveries=attempt))
    assert outcome.name == name
    if name == "deferred":
        assert outcome.move.value == "5000 normal deferred"


def test_held_uncertain_job_ends() -> None:
    """With the policy `hold`, no message that may have been delivered is sent again."""
    move = outcome_of(UncertainError("x"), policy="hold").move
    assert (move.kind, move.value) == ("ended", "failed q 1")


def test_hard_bounce_suppresses_the_address() -> None:
    """The outcome has the reason for the suppression."""
    assert outcome_of(PermanentError("x", suppress="550 5.1.1")).suppress == "550 5.1.1"


@pytest.mark.parametrize(("deliveries", "status"), [(1, "queued"), (2, "retrying")])
def test_untouched_job_waits_as_it_did(deliveries: int, status: str) -> None:
    """A job begun and not handed over is recorded as returned, and uses no attempt."""
    move = untouched(lease_of(deliveries=deliveries), 10_000, "its sender stopped")
    event = _decode(move.event)
    assert isinstance(event, Returned)
    assert (event.status, move.value) == (status, f"{deliveries - 1} {status[0]}")


SCHEDULE = RetryPolicy(max_attempts=4, waits_s=(5.0, 300.0, 7200.0), give_up_after_s=5 * 86400.0)


@pytest.mark.parametrize(("attempt", "value"), [(1, "5000 1"), (2, "300000 normal retried")])
def test_a_channel_has_waits_of_its_own(attempt: int, value: str) -> None:
    """The waits between attempts are the schedule's; long ones go to the jobs that are due later."""
    assert outcome_of(TransientError("x"), lease_of(deliveries=attempt), retry=SCHEDULE).move.value == value


def test_a_channel_s_schedule_ends() -> None:
    """After the last attempt the job fails, also if it was deferred before: the schedule is long enough."""
    lease = lease_of(deliveries=4, deferrals=2, first_deferred_at_ms=9000)
    assert outcome_of(TransientError("x"), lease, retry=SCHEDULE).name == "failed"
    assert outcome_of(TransientError("x"), lease).name == "deferred"


def test_jitter_spreads_jobs_that_failed_together() -> None:
    """Each delay is within the jitter of its wait; different jobs have different delays, one job always the same."""
    retry = RetryPolicy(max_attempts=9, waits_s=(1000.0,), jitter=0.1)
    delays = [retry.delay_s(1, f"we_1:{n}:webhook") or 0.0 for n in range(1000)]
    assert 900 <= min(delays) < 910
    assert 1090 < max(delays) <= 1100
    assert sum(delays) / len(delays) == pytest.approx(1000, abs=10)
    assert retry.delay_s(1, "we_1:7:webhook") == delays[7]
    assert RetryPolicy(time_scale=0.5, waits_s=(10.0,)).delay_s(1, "a") == 5.0


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_repeated_message_is_never_uncertain(attempt: int) -> None:
    """Where receivers recognise repetitions, a lost answer is a further attempt like any other, and no record of it."""
    outcome = outcome_of(UncertainError("lost"), lease_of(deliveries=attempt), policy="repeat", retry=SCHEDULE)
    assert (outcome.move.kind, outcome.name) == ("park" if attempt == 1 else "later", "retrying")
    last = outcome_of(UncertainError("lost"), lease_of(deliveries=4), policy="repeat", retry=SCHEDULE)
    assert (last.name, last.move.value) == ("failed", "failed r 0")


@pytest.mark.parametrize(
    ("error", "lease"),
    [
        (PermanentError("x"), lease_of()),
        (TransientError("x"), lease_of(deliveries=3)),
        (DeferredError("x"), lease_of(deferrals=3, first_deferred_at_ms=10_000 - DAY_MS)),
        (UncertainError("x"), lease_of(deliveries=3)),
    ],
)
def test_a_channel_may_keep_no_dead_letters(error: SendError, lease: Lease) -> None:
    """The event of a job that fails does not contain the job, however it fails."""
    tried = Tried(lease, 10_000, 5, "")
    event = _decode(refused(tried, error, OutcomePolicy(USUAL, "hold", 60_000, dead_letters=False)).move.event)
    assert isinstance(event, Ended)
    assert (event.status, event.job) == ("failed", b"")


@pytest.mark.parametrize(
    ("subject", "response"),
    [("x" * 900, "250 ok"), ("ก" * 400, "250 ok"), ("Hello", "250 " + "y" * 16_000), ("ก" * 400, "ข" * 16_000)],
    ids=["long subject", "Thai subject", "long reply", "both"],
)
def test_every_acceptance_fits_into_the_journal(subject: str, response: str) -> None:
    """G2: an acceptance that the journal cannot note would be repeated; its texts are cut, its Message-ID is not."""
    tried, receipt = Tried(lease_of(), 10_000, 5, subject), Receipt(f"<{'m' * 100}@example.com>", response)
    whole = accepted(tried, receipt).event
    event = short_event(whole)
    assert len(event) <= EVENT_BYTES < len(whole)
    found = msgspec.msgpack.decode(event, type=Sent)
    assert found.message_id == receipt.message_id
    assert subject.startswith(found.subject)
    assert found.subject
    assert response.startswith(found.response)


def test_a_short_acceptance_is_noted_as_it_is() -> None:
    """What fits is not cut."""
    event = accepted(Tried(lease_of(), 10_000, 5, "Hello"), Receipt("<1>", "250 ok")).event
    assert short_event(event) is event


def test_a_late_acceptance_says_only_that_it_is_late() -> None:
    """All else is that of the acceptance: the reply, the subject and the attempt."""
    event = accepted(Tried(lease_of(), 10_000, 5, "Hello"), Receipt("<1>", "250 ok")).event
    whole, late = (msgspec.msgpack.decode(one, type=Sent) for one in (event, late_event(event)))
    assert late == msgspec.structs.replace(whole, late=True)
