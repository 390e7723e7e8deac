"""What the loop does with each outcome, on a real queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from shared.blasts import Blast
from shared.errors import (
    OPTED_OUT_REASON,
    DeferredError,
    PermanentError,
    SendError,
    StopBlastError,
    StopChannelError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from shared.events import Deferred, Ended, Retrying, SystemEvent
from shared.sending.provider import Receipt, RenderedMessage
from tests.integration.queue.world import World
from tests.integration.sending.fakes import Behaviour, FakeProvider, accept
from tests.integration.sending.running import SETTINGS, sending
from tests.servers import PATIENCE_S, wait_for


def failing(times: int, error: SendError) -> Behaviour:
    """Fail each job `times` times, then accept."""
    seen: Counter[str] = Counter()

    async def behave(message: RenderedMessage) -> Receipt:
        seen[message.job_id] += 1
        if seen[message.job_id] <= times:
            raise error
        return await accept(message)

    return behave


async def ended(world: World, blast: Blast, timeout_s: float = PATIENCE_S) -> dict[str, int]:
    """Wait until a blast has ended; return its counts."""

    async def has_ended() -> bool:
        return (await world.progress(blast)).ended_at_ms > 0

    await wait_for(has_ended, timeout_s, "the blast to end")
    await world.check_balance()
    return (await world.progress(blast)).counts


async def test_every_job_of_a_blast_is_sent_once(world: World) -> None:
    """Two thousand jobs are handed over exactly once each, by two senders together."""
    blast = await world.given(2000)
    provider = FakeProvider()
    async with sending(world, provider), sending(world, provider):
        counts = await ended(world, blast)
    assert counts["sent"] == 2000
    assert len(provider.calls) == len({job_id for job_id, _ in provider.calls}) == 2000


async def test_transient_failures_are_retried_after_doubling_delays(world: World) -> None:
    """Two failures cost two attempts and wait the first and second delay (here a tenth of 2 s and 4 s)."""
    blast = await world.given(1)
    provider = FakeProvider(failing(2, TransientError("later", code="451", reply="451 later")))
    async with sending(world, provider) as observer:
        counts = await ended(world, blast)
    assert counts["sent"] == 1
    times = [at for _, at in provider.calls]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(gap >= wait - 0.01 for gap, wait in zip(gaps, [0.2, 0.4], strict=True))
    assert [name for name, _ in observer.attempts] == ["retrying", "retrying", "sent"]
    retries = [event for event in await world.written() if isinstance(event, Retrying)]
    assert [event.attempt for event in retries] == [1, 2]
    assert [event.next_at_ms - event.at_ms for event in retries] == pytest.approx([200, 400], abs=2)


async def test_exhausted_job_is_a_dead_letter(world: World) -> None:
    """After three attempts the job ends as failed, kept whole, with the provider's reply."""
    blast = await world.given(1)
    provider = FakeProvider(failing(9, TransientError("later", code="451", reply="451 later")))
    async with sending(world, provider):
        counts = await ended(world, blast)
    assert counts["failed"] == 1
    assert len(provider.calls) == 3
    (event,) = [event for event in await world.written() if isinstance(event, Ended)]
    assert (event.attempt, event.error_class, event.message) == (3, "transient", "451 later")
    assert event.job


async def test_deferral_uses_no_attempt(world: World) -> None:
    """Four deferrals do not use up three attempts; each waits as long as the provider asked."""
    blast = await world.given(1)
    provider = FakeProvider(failing(4, DeferredError("greylisted", wait_s=0.1)))
    async with sending(world, provider):
        counts = await ended(world, blast)
    assert counts["sent"] == 1
    deferrals = [event for event in await world.written() if isinstance(event, Deferred)]
    assert [(event.attempt, event.deferral) for event in deferrals] == [(1, 1), (1, 2), (1, 3), (1, 4)]


async def test_permanent_failure_ends_at_once_and_suppresses(world: World) -> None:
    """A hard bounce fails without another attempt, and nothing is sent to the address again."""
    blast = await world.given(1)
    provider = FakeProvider(failing(1, PermanentError("no such user", suppress="550 5.1.1")))
    async with sending(world, provider):
        assert (await ended(world, blast))["failed"] == 1
        again = await world.given(1)
        assert (await ended(world, again))["suppressed"] == 1
    assert len(provider.calls) == 1


async def test_suppressions_of_earlier_versions_hold(world: World) -> None:
    """A suppression stored by spelling also stops messages to another spelling: senders convert it as they start."""
    await world.redis.hset("{email}:suppressed", "R0@Example.com", "hard_bounce: 550 5.1.1")
    blast = await world.given(1)
    provider = FakeProvider(accept)
    async with sending(world, provider):
        assert (await ended(world, blast))["suppressed"] == 1
    assert provider.calls == []


async def test_opting_out_stops_marketing_alone(world: World) -> None:
    """A recipient who opted out gets no more marketing mail, but still gets transactional mail."""
    blasts = [await world.blast(1) for _ in range(3)]
    provider = FakeProvider(failing(1, PermanentError("opted out", suppress=f"{OPTED_OUT_REASON}: 131050")))
    async with sending(world, provider):
        for blast, marketing in zip(blasts, (True, True, False), strict=True):
            provider.behaviour = provider.behaviour if blast is blasts[0] else accept
            await world.enqueue(blast, marketing=marketing)
            await ended(world, blast)
    statuses = [[name for name, n in (await world.progress(blast)).counts.items() if n] for blast in blasts]
    assert statuses == [["failed"], ["suppressed"], ["sent"]]


async def test_unavailable_provider_costs_no_attempt(world: World) -> None:
    """While the server is away no job fails; when it is back, the job is still at its first attempt."""
    blast = await world.given(20)
    provider = FakeProvider(failing(2, UnavailableError("connection refused", code="connect")))
    async with sending(world, provider) as observer:
        counts = await ended(world, blast)
    assert counts["sent"] == 20
    assert {name for name, _ in observer.attempts} == {"returned", "sent"}
    assert not [event for event in await world.written() if isinstance(event, Retrying)]


async def test_answer_that_comes_before_the_start_ends_the_probing(world: World) -> None:
    """A server that refuses a message while a connection is opened for it counts as available."""

    async def refuse(_message: RenderedMessage) -> None:
        raise PermanentError("it does not take such addresses")

    async def is_available() -> list[bool]:
        return [one.available for one in (await world.control.channel_stats("email")).senders]

    blast = await world.given(1)
    provider = FakeProvider(is_available=False, prepare=refuse)
    async with sending(world, provider):

        async def left_alone() -> bool:
            return await is_available() == [False]

        async def taken_up() -> bool:
            return await is_available() == [True]

        await wait_for(left_alone, what="the provider to be probed")
        provider.is_available = True
        assert (await ended(world, blast))["failed"] == 1
        await wait_for(taken_up, what="the end of the probing")


async def test_stop_pauses_the_channel_and_keeps_the_job(world: World) -> None:
    """Wrong credentials pause the channel with the reason; after the resume the job is sent."""
    blast = await world.given(3)
    provider = FakeProvider(failing(1, StopChannelError("535 authentication failed", code="535")))
    async with sending(world, provider):

        async def is_paused() -> str:
            return (await world.control.channel_stats("email")).pause_reason

        assert "535" in await wait_for(is_paused, what="the pause")
        await wait_for(lambda: _none_active(world), what="jobs given back")
        assert (await world.progress(blast)).counts["queued"] == 3
        provider.behaviour = accept
        await world.control.resume_channel("email")
        assert (await ended(world, blast))["sent"] == 3


async def _none_active(world: World) -> bool:
    return (await world.control.channel_stats("email")).active == 0


async def test_stop_blast_pauses_that_blast_alone(world: World) -> None:
    """A template that the provider rejects pauses its blast; others continue."""
    broken, fine = await world.given(5), await world.given(5)

    async def behave(message: RenderedMessage) -> Receipt:
        if message.job_id.startswith(f"{broken.blast_id}:"):
            raise StopBlastError("template paused", code="132015")
        return await accept(message)

    provider = FakeProvider(behave)
    async with sending(world, provider):
        assert (await ended(world, fine))["sent"] == 5
        assert (await world.progress(broken)).paused
        provider.behaviour = accept
        assert await world.control.resume_blast(broken.blast_id)
        assert (await ended(world, broken))["sent"] == 5


@pytest.mark.parametrize(
    ("policy", "losses", "status", "calls"),
    [("resend", 1, "sent", 2), ("resend", 2, "failed", 2), ("hold", 1, "failed", 1)],
)
async def test_uncertain_send_follows_the_policy(
    world: World, policy: str, losses: int, status: str, calls: int
) -> None:
    """`resend` sends an uncertain job again once at most, `hold` never."""
    blast = await world.given(1)
    provider = FakeProvider(failing(losses, UncertainError("answer lost")))
    async with sending(world, provider, replace(SETTINGS, on_uncertain=policy)):
        counts = await ended(world, blast)
    assert counts[status] == 1
    assert len(provider.calls) == calls


async def test_unknown_error_is_tried_again(world: World) -> None:
    """An unexpected error loses no job."""
    blast = await world.given(1)
    tries = iter([True, False])

    async def behave(message: RenderedMessage) -> Receipt:
        if next(tries):
            raise ZeroDivisionError
        return await accept(message)

    async with sending(world, FakeProvider(behave)):
        assert (await ended(world, blast))["sent"] == 1


async def test_an_entry_that_is_not_a_job_is_ended_by_the_sender(world: World) -> None:
    """An entry that is not a job ends as failed, with a system event, and the jobs behind it are sent."""
    blast = await world.blast(2)
    await world.enqueue(blast, 0, 1)
    await world.redis.xtrim("{email}:jobs:normal", maxlen=0, approximate=False)
    await world.redis.xadd("{email}:jobs:normal", {"d": msgspec.msgpack.encode([blast.blast_id, 0, "email", "?"])})
    await world.enqueue(blast, 1, 1)
    async with sending(world, FakeProvider()):
        counts = await ended(world, blast)
    assert (counts["sent"], counts["failed"]) == (1, 1)
    told = [(event.service, event.level) for event in await world.written() if isinstance(event, SystemEvent)]
    # another test's ingest may run in this process, and forwards every log line under its own name
    assert [one for one in told if one[0] != "ingest"] == [("email_sender", "error")]
