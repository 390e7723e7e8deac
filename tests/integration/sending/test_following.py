"""Jobs that a worker takes early, so that the provider can announce the next message with this one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from shared.clock import SystemClock
from shared.errors import PermanentError
from shared.events import Sent
from shared.sending.provider import NotStartedError, Proceed, Receipt, RenderedMessage, Start, at_once, note_acceptance
from tests.integration.queue.world import World
from tests.integration.sending.fakes import FakeProvider, WhatsAppAsEmail
from tests.integration.sending.running import SETTINGS, sending
from tests.integration.whatsapp_sender.providers import CONNECTION, qiscus
from tests.raw_servers import serving_raw
from tests.servers import wait_for

Next = Callable[[], RenderedMessage | None]


@dataclass
class ChainingFake(FakeProvider):
    """Asks for the next message with each one; hangs once it has been given one `hang_after` times."""

    announces: bool = True
    hang_after: int = 1_000_000
    followed: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)

    async def send_chained(
        self, message: RenderedMessage, following: Next, start: Start = at_once, proceed: Proceed | None = None
    ) -> Receipt:
        del proceed  # it returns after each message, as a provider may
        await start()
        following_message = following()
        if following_message is not None:
            self.followed.append(following_message.job_id)
            if len(self.followed) >= self.hang_after:
                await asyncio.Event().wait()
        return await self.send(message)

    def withdraw(self, message: RenderedMessage) -> None:
        self.withdrawn.append(message.job_id)


@dataclass
class ProceedingFake(FakeProvider):
    """Continues with the message that follows as soon as one was accepted; `chains` has the job ids of each call.

    `behaviour` may raise; `after_the_yes` is called when a message was accepted and its receipt is due.
    """

    announces: bool = True
    chains: list[list[str]] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    after_the_yes: Callable[[RenderedMessage], None] = lambda _message: None

    async def send_chained(
        self, message: RenderedMessage, following: Next, start: Start = at_once, proceed: Proceed | None = None
    ) -> Receipt:
        assert proceed is not None
        chain: list[str] = []
        self.chains.append(chain)
        while True:
            chain.append(message.job_id)
            ahead = following()
            receipt = await self.send(message, start)
            note_acceptance(receipt.message_id, receipt.response)
            self.after_the_yes(message)
            next_start = proceed(receipt) if ahead is not None else None
            if next_start is None or ahead is None:
                return receipt
            message, start = ahead, next_start

    def withdraw(self, message: RenderedMessage) -> None:
        self.withdrawn.append(message.job_id)


async def test_every_job_is_sent_once_by_the_worker_that_took_it(world: World) -> None:
    """A provider that announces the next message sends each message once, announced or not."""
    blast = await world.given(400)
    provider = ChainingFake()
    async with sending(world, provider):

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 400

        await wait_for(all_sent, 60, "all to be sent")
    assert sorted(job_id for job_id, _ in provider.calls) == sorted(f"{blast.blast_id}:{i}:email" for i in range(400))
    assert provider.followed
    assert provider.withdrawn == []
    await world.check_balance()


async def test_stop_gives_back_what_was_only_announced(world: World) -> None:
    """A message cut off in mid-send is uncertain; the one announced with it is withdrawn and waits as before."""
    blast = await world.given(200)
    provider = ChainingFake(hang_after=3)
    async with sending(world, provider, replace(SETTINGS, concurrency=1, grace_s=0.2)):
        await wait_for(lambda: len(provider.followed) == 3, 30, "a message to hang with another announced")
    assert provider.withdrawn == [provider.followed[-1]]
    counts = (await world.progress(blast)).counts
    sent = len(provider.calls)
    assert (counts["sent"], counts["retrying"], counts["queued"]) == (sent, 1, 199 - sent)
    await world.check_balance()


async def test_jobs_of_the_lane_high_are_never_taken_early(world: World) -> None:
    """An urgent job waits for the first free worker, not for the end of a particular send."""
    blast = await world.given(200, "high")
    provider = ChainingFake()
    async with sending(world, provider):

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 200

        await wait_for(all_sent, 60, "all to be sent")
    assert provider.followed == []


async def test_each_job_of_a_chain_has_its_own_outcome(world: World) -> None:
    """In chains of jobs over one connection, refused and failing ones end as such, once; all others are sent."""

    async def behave(message: RenderedMessage) -> Receipt:
        index = int(message.job_id.split(":")[1])
        if index % 10 == 3:
            raise PermanentError("no", code="550")
        if index % 10 == 6 and (index, "late") not in seen:
            seen.add((index, "late"))
            raise NotStartedError("too late")
        return Receipt(f"<{message.job_id}>", "250 ok")

    def stumble(message: RenderedMessage) -> None:
        if message.job_id.endswith(":9:email"):
            raise ZeroDivisionError

    seen: set[tuple[int, str]] = set()
    blast = await world.given(400)
    provider = ProceedingFake(behave, after_the_yes=stumble)
    async with sending(world, provider) as observer:

        async def ended() -> bool:
            return (await world.progress(blast)).ended_at_ms > 0

        await wait_for(ended, 60, "all to end")
    counts = (await world.progress(blast)).counts
    assert (counts["sent"], counts["failed"]) == (360, 40)
    assert max(map(len, provider.chains)) > 3
    events = [one for one in await world.written() if isinstance(one, Sent)]
    assert sorted(one.message_id for one in events) == sorted(f"<{one.job_id}>" for one in events)
    assert len(events) == 360
    assert Counter(outcome for outcome, _ in observer.attempts) == {"sent": 360, "failed": 40}
    await world.check_balance()


async def test_stop_in_a_chain_cuts_off_only_the_job_whose_turn_it_is(world: World) -> None:
    """What was accepted before is sent, the job in mid-send is uncertain, and the one taken ahead waits as before."""
    done = 0

    async def behave(message: RenderedMessage) -> Receipt:
        nonlocal done
        if done == 20:
            await asyncio.Event().wait()
        done += 1
        return Receipt(f"<{message.job_id}>", "250 ok")

    blast = await world.given(200)
    provider = ProceedingFake(behave)
    async with sending(world, provider, replace(SETTINGS, concurrency=1, grace_s=0.2)):
        await wait_for(lambda: len(provider.calls) == 21, 30, "a message to hang")
    counts = (await world.progress(blast)).counts
    assert (counts["sent"], counts["retrying"], counts["queued"]) == (20, 1, 179)
    await world.check_balance()


@dataclass
class Capricious:
    """An HTTP server that closes connections in every way in turn; `accepted` has the jobs of the messages it accepted.

    `dropped` are those to which it gave no answer, each once.
    """

    accepted: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    requests: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await reader.readuntil(b"}")
            self.requests += 1
            step = self.requests % 40
            job_id = request[request.index(b'{"job":"') + 8 : -2].decode()
            # a message that comes again after it was dropped does not count: the next one is dropped instead
            if len(self.dropped) < (self.requests + 1) // 40 and job_id not in self.dropped:
                self.dropped.append(job_id)
                return
            self.accepted.append(job_id)
            body = b'{"messages":[{"id":"wamid.%d"}]}' % self.requests
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body)
            head += b"Connection: close\r\n" if step == 29 else b""
            writer.write(head + b"\r\n" + body)
            if step in {9, 19, 29}:
                writer.close()
                return


async def test_each_message_is_accepted_once_by_a_server_that_breaks_off(world: World) -> None:
    """None is accepted twice, and a connection that closes after an answer costs no message an attempt."""
    blast = await world.given(400)
    server = Capricious()
    async with serving_raw(server.serve) as url:
        provider = WhatsAppAsEmail(qiscus(url), CONNECTION, SystemClock())
        async with sending(world, provider) as observer:  # type: ignore[arg-type]

            async def ended() -> bool:
                return (await world.progress(blast)).ended_at_ms > 0

            await wait_for(ended, 60, "all to end")
    assert sorted(server.accepted) == sorted(f"{blast.blast_id}:{index}:email" for index in range(400))
    assert len(server.dropped) == 10
    assert Counter(observer.attempts) == {("sent", ""): 400, ("retrying", "uncertain"): 10}
    await world.check_balance()
