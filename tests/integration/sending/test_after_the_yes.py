"""After a provider's acceptance no failure causes another send, and no job's failure affects another job."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import structlog

from services.email_sender.channel import EmailChannel
from services.email_sender.failures import ConnectionLostError
from shared.blasts import Blast
from shared.clock import SystemClock
from shared.errors import PermanentError, StopChannelError, TransientError, UnavailableError, UncertainError
from shared.events import Ended, Retrying, Sent
from shared.lifecycle import Stop
from shared.logs import LogPipeline
from shared.queue.batches import boot_name
from shared.queue.consumer import Consumer
from shared.queue.leases import Move
from shared.sending import outcomes, settler, worker
from shared.sending.loop import SendingLoop
from shared.sending.pace import Pace
from shared.sending.provider import NotStartedError, Receipt, RenderedMessage, note_acceptance
from shared.settings import EnvReader, read_common
from tests.integration.email_sender.mails import email_settings, smtp_settings
from tests.integration.email_sender.peer import peer
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, RememberedAttempts, WhatsAppAsEmail, accept
from tests.integration.sending.mutation import Mutation, Point, mutated
from tests.integration.sending.running import SETTINGS, sending
from tests.integration.whatsapp_sender.providers import CONNECTION, providing, qiscus
from tests.servers import wait_for

ALONE = replace(SETTINGS, concurrency=1, journal_dir=Path("journals"))


@dataclass
class Real:
    """A real sender with a real server; `taken` counts what the server accepted."""

    loop: SendingLoop[object]  # type: ignore[type-var]  # of any channel
    taken: Callable[[], int]


@asynccontextmanager
async def email_sender(world: World) -> AsyncIterator[Real]:
    async with peer() as server:
        channel = EmailChannel(email_settings(smtp_settings(server.url)))
        yield Real(_loop(world, channel), lambda: len(server.messages))


@asynccontextmanager
async def whatsapp_sender(world: World) -> AsyncIterator[Real]:
    async with providing() as provider:
        channel = WhatsAppAsEmail(qiscus(provider.url), CONNECTION, SystemClock())
        yield Real(_loop(world, channel), lambda: len(provider.bodies))


@asynccontextmanager
async def third_sender(world: World) -> AsyncIterator[Real]:
    provider = FakeProvider()
    yield Real(_loop(world, provider), lambda: len(provider.calls))


def _loop(world: World, channel: object) -> SendingLoop[object]:  # type: ignore[type-var]
    settings = replace(ALONE, sender_id=boot_name("email", "test"))
    return SendingLoop(world.redis, channel, settings, RememberedAttempts())  # type: ignore[arg-type]


SENDERS = [email_sender, whatsapp_sender, third_sender]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of the test's own. Log to a file, as a service does: hundreds of tracebacks take minutes."""
    monkeypatch.chdir(tmp_path)
    settings = read_common(EnvReader({"KURIR_LOG_DIR": str(tmp_path), "KURIR_LOG_CONSOLE": "off"}), 1)
    pipeline = LogPipeline("test", settings)
    monkeypatch.setattr(LogPipeline, "current", pipeline)
    structlog.configure(processors=[pipeline], logger_factory=structlog.testing.ReturnLoggerFactory())
    yield
    pipeline.close()
    structlog.reset_defaults()


MakeSender = Callable[[World], AbstractAsyncContextManager[Real]]


async def one_job(world: World, real: Real) -> None:
    """Send one job; fail unless it was accepted once and counts as sent."""
    await jobs(world, real, 1)


async def jobs(world: World, real: Real, count: int) -> None:
    """Send jobs; fail unless each was accepted once and counts as sent."""
    before = real.taken()
    blast = await world.given(count)

    async def ended() -> bool:
        return (await world.progress(blast)).ended_at_ms > 0

    await wait_for(ended, what="the jobs to end")
    assert (await world.progress(blast)).counts["sent"] == count
    assert real.taken() - before == count


async def every_point(world: World, real: Real, error: type[BaseException]) -> list[Point]:
    """Strike each line after the acceptance, one per job; return those that were struck."""
    await one_job(world, real)  # one-time work has been done
    calm = Mutation()
    with mutated(calm):
        await one_job(world, real)
    points = sorted(set(calm.points))
    struck = []
    for point in points:
        mutation = Mutation(point, error)
        with mutated(mutation):
            try:
                await one_job(world, real)
            except BaseException as failure:
                failure.add_note(f"struck {point} with {error.__name__}")
                raise
        struck += [point] if mutation.struck else []
    return struck


@pytest.mark.parametrize(
    ("sender", "error"),
    [
        *((one, ZeroDivisionError) for one in SENDERS),
        *((email_sender, ConnectionLostError), (whatsapp_sender, OSError), (third_sender, asyncio.CancelledError)),
    ],
)
async def test_no_line_after_the_yes_can_cause_another_send(
    sender: MakeSender, error: type[BaseException], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line between the acceptance and the end of the job raises once: accepted once, and counted as sent."""
    monkeypatch.setattr(settler, "AGAIN_AFTER_S", 0.05)
    kind = _STRUCK.get(error, error)
    stop = Stop()
    async with sender(world) as real:
        running = asyncio.create_task(real.loop.run(stop))
        try:
            struck = await every_point(world, real, kind)
        finally:
            stop.set()
            await running
    rooms = Counter(name.rsplit("/", 1)[-1] for name, _ in struck)
    assert rooms["worker.py"] > 15, rooms
    assert rooms["settler.py"] > 5, rooms
    assert rooms["consumer.py"] > 5, rooms
    assert not [one for one in await world.written() if isinstance(one, Retrying | Ended)]
    await world.check_balance()


async def _points(world: World, real: Real, count: int) -> set[Point]:
    """Return the lines after the first acceptance that a worker runs for that many jobs."""
    calm = Mutation()
    with mutated(calm):
        await jobs(world, real, count)
    return {point for point in calm.points if not point[0].endswith("settler.py")}


@pytest.fixture
def fast_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sends count as fast on a busy machine too: with slow ones one job at a time is begun, and none follows."""
    monkeypatch.setattr(Pace, "sent", lambda pace, _seconds: setattr(pace, "send_s", 0.00005))


@pytest.mark.usefixtures("fast_sends")
@pytest.mark.parametrize(
    ("sender", "error", "room", "least"),
    [
        *((email_sender, error, "delivery.py", 4) for error in (ZeroDivisionError, ConnectionLostError)),
        *((whatsapp_sender, error, "posting.py", 2) for error in (ZeroDivisionError, OSError)),
    ],
)
async def test_no_line_between_two_messages_of_a_chain_can_cause_another_send(
    sender: MakeSender, error: type[BaseException], room: str, least: int, world: World
) -> None:
    """Each line that runs only when another message follows on the connection raises once: all are sent, once."""
    stop, struck = Stop(), Counter[str]()
    async with sender(world) as real:
        running = asyncio.create_task(real.loop.run(stop))
        try:
            await jobs(world, real, 20)  # one-time work has been done, and the pace is known
            points = await _points(world, real, 3) - await _points(world, real, 1)
            for point in sorted(points):
                mutation = Mutation(point, _STRUCK.get(error, error))
                with mutated(mutation):
                    try:
                        await jobs(world, real, 3)
                    except BaseException as failure:
                        failure.add_note(f"struck {point} with {error.__name__}")
                        raise
                struck[point[0].rsplit("/", 1)[-1]] += mutation.struck
        finally:
            stop.set()
            await running
    assert struck["worker.py"] + struck["attempt.py"] > 20, struck
    assert struck[room] >= least, struck
    await world.check_balance()


class _LostError(ConnectionLostError):
    def __init__(self, words: str) -> None:
        super().__init__(words, ConnectionResetError())


_STRUCK: dict[type[BaseException], type[BaseException]] = {ConnectionLostError: _LostError}


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("surprise"),
        TransientError("later"),
        PermanentError("never"),
        UnavailableError("away"),
        StopChannelError("stop"),
        UncertainError("lost"),
        NotStartedError("late"),
        UnicodeEncodeError("utf-8", "\udcfc", 0, 1, "surrogates"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_noted_yes_outranks_whatever_is_raised_after_it(world: World, error: Exception) -> None:
    """Any channel that notes an acceptance and then fails: the job is sent, with what was noted."""

    async def behave(message: RenderedMessage) -> Receipt:
        note_acceptance(f"<{message.job_id}>", "250 f\udcfcr alle")
        raise error

    blast = await world.given(3)
    provider = FakeProvider(behave)
    async with sending(world, provider):
        await _ended(world, blast)
    assert len(provider.calls) == 3
    events = [one for one in await world.written() if isinstance(one, Sent)]
    assert {(one.message_id, one.response) for one in events} == {(f"<{one.job_id}>", "250 für alle") for one in events}
    assert len(events) == 3


async def test_cancellation_that_nobody_asked_for_ends_no_sender(world: World) -> None:
    """A stray CancelledError uses an attempt before the start, and changes nothing after acceptance; all are sent."""
    times = Counter[str]()

    async def prepare(message: RenderedMessage) -> None:
        times[message.job_id] += 1
        if times[message.job_id] == 1:
            raise asyncio.CancelledError

    async def behave(message: RenderedMessage) -> Receipt:
        note_acceptance(f"<{message.job_id}>", "250 ok")
        raise asyncio.CancelledError

    blast = await world.given(6)
    provider = FakeProvider(behave, prepare=prepare)
    async with sending(world, provider, replace(SETTINGS, concurrency=2)):
        assert (await _ended(world, blast))["sent"] == 6
    assert set(times.values()) == {2}


async def test_stop_after_a_noted_yes_is_an_acceptance(world: World) -> None:
    """A sender that is stopped between the acceptance and the channel's return has sent the message."""

    async def behave(message: RenderedMessage) -> Receipt:
        note_acceptance(f"<{message.job_id}>", "250 ok")
        await asyncio.get_running_loop().create_future()
        return await accept(message)

    blast = await world.given(1)
    provider = FakeProvider(behave)
    async with sending(world, provider, replace(SETTINGS, grace_s=0.1)):
        await wait_for(lambda: provider.calls)
    assert (await world.progress(blast)).counts["sent"] == 1


@pytest.mark.parametrize(("policy", "error_class"), [("hold", "uncertain"), ("resend", "")])
async def test_surprise_in_mid_send_is_uncertain(world: World, policy: str, error_class: str) -> None:
    """A message handed over without an answer may have arrived, so the policy for uncertain sends decides."""
    times = Counter[str]()

    async def behave(message: RenderedMessage) -> Receipt:
        times[message.job_id] += 1
        if times[message.job_id] == 1:
            raise ZeroDivisionError
        return await accept(message)

    blast = await world.given(1)
    async with sending(world, FakeProvider(behave), replace(SETTINGS, on_uncertain=policy)):
        counts = await _ended(world, blast)
    events = [one.error_class for one in await world.written() if isinstance(one, Ended)]
    assert events == ([error_class] if error_class else [])
    assert counts["sent" if policy == "resend" else "failed"] == 1


async def test_surprise_before_the_start_is_transient(world: World) -> None:
    """If nothing was handed over, an attempt is used under either policy for uncertain sends."""
    broken = iter([True, False])

    async def prepare(_message: RenderedMessage) -> None:
        if next(broken):
            raise ZeroDivisionError

    blast = await world.given(1)
    async with sending(world, FakeProvider(prepare=prepare), replace(SETTINGS, on_uncertain="hold")):
        assert (await _ended(world, blast))["sent"] == 1
    (retrying,) = [one for one in await world.written() if isinstance(one, Retrying)]
    assert retrying.error_class == "transient"


@pytest.mark.parametrize(
    ("where", "struck", "most"),
    [((worker, "accepted"), 5, 1), ((worker, "note"), 5, 1), ((outcomes, "pack_event"), 5, 1),
     ((worker, "refused"), 0, 2)],
)  # fmt: skip
async def test_one_jobs_outcome_that_cannot_be_worked_out_harms_no_other(
    world: World, where: tuple[object, str], struck: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception while one of twenty outcomes is made: all jobs end correctly; no accepted message is sent twice."""
    real, times = getattr(*where), iter(range(10**6))

    def sometimes(*args: object, **kwargs: object) -> object:
        if next(times) == struck:
            raise UnicodeEncodeError("utf-8", "\udcfc", 0, 1, "surrogates not allowed")
        return real(*args, **kwargs)

    async def behave(message: RenderedMessage) -> Receipt:
        if message.job_id.endswith("7:email"):
            raise PermanentError("no")
        return Receipt("<id>", "250 ok")

    monkeypatch.setattr(*where, sometimes)
    blast = await world.given(20)
    provider = FakeProvider(behave)
    async with sending(world, provider):
        counts = await _ended(world, blast)
    assert (counts["sent"], counts["failed"]) == (18, 2)
    assert next(times) > struck
    assert max(Counter(job_id for job_id, _ in provider.calls).values()) == most


async def test_one_settlement_that_cannot_be_written_poisons_no_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver refuses one of a batch for a while: the others are settled immediately, that one when it can be."""
    monkeypatch.setattr(settler, "AGAIN_AFTER_S", 0.05)
    real, refusals = Consumer.settle, iter(range(10**6))

    async def settle(consumer: Consumer, moves: Sequence[Move]) -> list[bool]:
        if any(move.lease.job.index == 20 for move in moves) and next(refusals) < 4:
            raise UnicodeEncodeError("utf-8", "\udcfc", 0, 1, "surrogates not allowed")
        return await real(consumer, moves)

    monkeypatch.setattr(Consumer, "settle", settle)
    blast = await world.given(50)
    provider = FakeProvider()
    async with sending(world, provider):
        assert (await _ended(world, blast))["sent"] == 50
    assert next(refusals) > 4
    assert len(provider.calls) == 50


async def _ended(world: World, blast: Blast) -> dict[str, int]:
    async def has_ended() -> bool:
        return (await world.progress(blast)).ended_at_ms > 0

    await wait_for(has_ended, what="the blast to end")
    await world.check_balance()
    return (await world.progress(blast)).counts
