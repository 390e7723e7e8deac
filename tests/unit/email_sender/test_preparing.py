"""Messages prepared ahead: which are kept, for how long, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.email_sender import preparing
from services.email_sender.dkim_keys import DkimKey, KeyRing
from services.email_sender.encoder import Encoder
from services.email_sender.message import Frames
from services.email_sender.preparing import Preparations
from services.email_sender.signers import Signers
from shared.jobs import Job
from tests.integration.email_sender.mails import MAIL, make_blast, make_job
from tests.unit.email_sender.keys import rsa_key, verdicts

RSA = DkimKey("example.com", "r", rsa_key())
BLAST = make_blast()


@pytest.fixture
async def preparations() -> AsyncIterator[Preparations]:
    """Preparations that sign with an RSA key."""
    encoder = Encoder(KeyRing([RSA]))
    await encoder.open()
    made = Preparations(Frames(MAIL), encoder)
    yield made
    made.close()
    await encoder.close()


async def prepared(preparations: Preparations, jobs: list[Job]) -> None:
    """Plan jobs, and let the event loop run until nothing more is prepared."""
    preparations.plan([(job, BLAST) for job in jobs])
    while preparations._next is not None:  # noqa: ASYNC110 -- the wait is for turns of the event loop
        await asyncio.sleep(0)


async def test_planned_messages_are_signed_before_they_are_taken(preparations: Preparations) -> None:
    """Each is signed once, even if planned again; a taken message is removed."""
    jobs = [make_job(index=index) for index in range(20)]
    await prepared(preparations, jobs)
    await prepared(preparations, jobs)
    for job in jobs:
        mail = preparations.take(job)
        assert mail is not None
        assert mail.signed is not None
        await mail.signed.wait()
        assert verdicts(mail.signed.content or b"", [RSA]) == [True]
        assert preparations.take(job) is None
    assert preparations._bytes == 0


async def test_few_are_prepared_between_two_turns_of_the_event_loop(preparations: Preparations) -> None:
    """A fetch may bring hundreds of jobs; other tasks run in between."""
    preparations.plan([(make_job(index=index), BLAST) for index in range(40)])
    turns = 0
    while preparations._next is not None:
        before = len(preparations._prepared)
        await asyncio.sleep(0)
        assert len(preparations._prepared) - before <= 8
        turns += 1
    assert turns >= 5


async def test_urgent_messages_are_prepared_first(preparations: Preparations) -> None:
    """A job of lane `high` is prepared before the hundreds that were fetched earlier."""
    bulk = [make_job(index=index, lane="bulk") for index in range(20)]
    urgent = make_job(index=99, lane="high")
    preparations.plan([(job, BLAST) for job in [*bulk, urgent]])
    await asyncio.sleep(0)
    assert preparations.take(urgent) is not None
    assert preparations.take(bulk[-1]) is None


async def test_message_of_another_run_is_another_message(preparations: Preparations) -> None:
    """It has its own id, and the message of the previous run is not used for it."""
    await prepared(preparations, [make_job(run=1)])
    assert preparations.take(make_job(run=2)) is None
    assert preparations.take(make_job(run=1)) is not None


async def test_message_that_waited_for_long_is_made_again(
    preparations: Preparations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its Date and signature would have the time of its fetching."""
    await prepared(preparations, [make_job()])
    monkeypatch.setattr(preparing, "MOST_AGE_S", -1.0)
    assert preparations.take(make_job()) is None
    assert preparations._bytes == 0


async def test_what_is_forgotten_is_kept_no_longer(preparations: Preparations) -> None:
    """A forgotten message is dropped, whether it was prepared or only planned."""
    made, planned = make_job(index=1), make_job(index=2)
    await prepared(preparations, [made])
    preparations.plan([(planned, BLAST)])
    preparations.forget(made)
    preparations.forget(planned)
    preparations.forget(make_job(index=3))
    await asyncio.sleep(0)
    assert preparations.take(made) is None
    assert preparations.take(planned) is None
    assert (preparations._bytes, len(preparations._planned)) == (0, 0)


async def test_no_more_bytes_are_kept_than_allowed(preparations: Preparations, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is prepared once some messages are taken."""
    monkeypatch.setattr(preparing, "MOST_AHEAD_BYTES", 10_000)
    jobs = [make_job(index=index) for index in range(20)]
    await prepared(preparations, jobs)
    first = [job for job in jobs if (job.blast_id, job.index, job.run) in preparations._prepared]
    assert 1 <= len(first) < 5
    assert first == jobs[: len(first)]
    assert all(preparations.take(job) is not None for job in first)
    await asyncio.sleep(0)
    assert preparations.take(jobs[len(first)]) is not None


async def test_job_that_cannot_be_rendered_spoils_no_other(preparations: Preparations) -> None:
    """Its own attempt will report the reason; the jobs behind it are prepared."""
    bad, good = make_job("not an address", index=1), make_job(index=2)
    await prepared(preparations, [bad, good])
    assert preparations.take(bad) is None
    assert preparations.take(good) is not None


async def test_what_is_forgotten_is_not_signed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up while it is queued; so is a message taken too late."""
    monkeypatch.setattr(Signers, "add", lambda *_args, **_options: None)
    encoder = Encoder(KeyRing([RSA]))
    preparations = Preparations(Frames(MAIL), encoder)
    forgotten, late = make_job(index=1), make_job(index=2)
    await prepared(preparations, [forgotten, late])
    kept = [one.mail.signed for one in preparations._prepared.values()]
    preparations.forget(forgotten)
    monkeypatch.setattr(preparing, "MOST_AGE_S", -1.0)
    preparations.take(late)
    assert [one.given_up for one in kept if one is not None] == [True, True]
    await encoder.close()
