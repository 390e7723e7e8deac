"""A server that refuses all recipients alike is our fault, not the recipients'; a list of dead addresses is not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from shared.blasts import Blast
from shared.events import Ended, Retrying, Sent
from shared.jobs import Recipient
from shared.queue.producer import Chunk
from shared.queue.suppressions import Suppressions
from shared.sending.breaker import BreakerPolicy
from tests.integration.email_sender.mails import smtp_settings
from tests.integration.email_sender.peer import Peer, peer
from tests.integration.email_sender.running import sending_mail
from tests.integration.queue.world import World
from tests.integration.sending.running import SETTINGS
from tests.servers import wait_for

RELAY = "550 relay not permitted"
UNKNOWN = "550 5.1.1 <{address}>: Recipient address rejected: User unknown"


@dataclass
class Relay:
    """A server's reply to RCPT: a refusal for the recipients concerned, with `{address}` replaced."""

    refusal: str
    concerns: Callable[[str], bool] = lambda _address: True

    def answer(self, line: str) -> str:
        address = line.partition("<")[2].partition(">")[0]
        return self.refusal.format(address=address) if self.concerns(address) else "250 2.1.5 ok"

    def heal(self) -> None:
        self.concerns = lambda _address: False


@asynccontextmanager
async def relaying(relay: Relay) -> AsyncIterator[Peer]:
    async with peer({"RCPT": relay.answer}) as server:
        yield server


async def given(world: World, count: int, label: str) -> Blast:
    """Enqueue a blast to addresses that no other blast has."""
    blast = await world.blast(count)
    jobs = [world.jobs(blast, [n], recipient=Recipient(f"{label}.{n}@example.com", "R"))[0] for n in range(count)]
    await world.producer.enqueue(Chunk(blast, "email", 0, jobs))
    return blast


async def paused(world: World) -> str:
    return (await world.control.channel_stats("email")).pause_reason


async def quiet(world: World) -> bool:
    """Return whether the channel is paused and no job is in flight."""
    stats = await world.control.channel_stats("email")
    return bool(stats.pause_reason) and stats.active == 0


async def suppressed(world: World) -> int:
    return sum([len(block) async for block in Suppressions(world.redis).every("email")])


async def ended(world: World, blast: Blast) -> dict[str, int]:
    async def has_ended() -> bool:
        return (await world.progress(blast)).ended_at_ms > 0

    await wait_for(has_ended, what="the end of the blast")
    await world.check_balance()
    return (await world.progress(blast)).counts


@pytest.mark.parametrize(
    "refusal",
    [RELAY, "554 5.7.1 <{address}>: Relay access denied", UNKNOWN, "550 no such user {address}", "552 too large for us",
     "550 Verification failed for <shop@example.com>", "550 5.7.1 [{address}] blocked, see https://x.example/?a={address}"],
)  # fmt: skip
@pytest.mark.parametrize("senders", [1, 2])
async def test_nobody_pays_for_a_relay_that_refuses_everybody(world: World, refusal: str, senders: int) -> None:
    """The channel pauses with the server's words, no address is suppressed, no job fails; all are sent later, once."""
    blast = await world.given(60)
    relay = Relay(refusal)
    async with relaying(relay) as server, AsyncExitStack() as stack:
        for _ in range(senders):
            await stack.enter_async_context(sending_mail(world, smtp_settings(server.url)))
        await wait_for(lambda: quiet(world), what="the channel to be paused")
        assert "recipients in a row for the same reason" in await paused(world)
        assert refusal.partition("{")[0] in await paused(world)
        assert await suppressed(world) == 0
        assert (await world.progress(blast)).counts["failed"] == 0
        relay.heal()
        await world.control.resume_channel("email")
        counts = await ended(world, blast)
        assert counts["sent"] == 60
    events = await world.written()
    assert not [event for event in events if isinstance(event, Ended | Retrying)]
    assert {event.attempt for event in events if isinstance(event, Sent)} == {1}
    assert await suppressed(world) == 0


async def test_list_of_dead_addresses_continues_after_one_resume(world: World) -> None:
    """After an operator has resumed the channel, the verdicts count and the channel does not pause again."""
    blast = await world.given(80)
    async with relaying(Relay(UNKNOWN)) as server, sending_mail(world, smtp_settings(server.url)):
        await wait_for(lambda: quiet(world), what="the channel to be paused")
        await world.control.resume_channel("email")
        assert (await ended(world, blast))["failed"] == 80
        assert not await paused(world)

        async def all_suppressed() -> bool:
            return await suppressed(world) == 80

        await wait_for(all_suppressed, what="all to be suppressed")


async def test_blast_to_a_relay_that_is_never_repaired_ends(world: World) -> None:
    """Messages refused before and after a resume fail: each resume costs those in flight, the last ends the blast."""
    blast = await world.given(300)
    async with relaying(Relay(RELAY)) as server, sending_mail(world, smtp_settings(server.url)):
        failed, resumes = 0, 0
        while failed < 300:

            async def rests() -> bool:
                return await quiet(world) or (await world.progress(blast)).ended_at_ms > 0

            await wait_for(rests, what="the channel to be paused, or the end")
            before, failed = failed, (await world.progress(blast)).counts["failed"]
            assert failed - before <= 150
            await world.control.resume_channel("email")
            resumes += 1
            assert resumes < 20
        assert await suppressed(world) == 0
        assert (await ended(world, blast))["failed"] == 300


async def test_refusals_among_acceptances_count_at_once(world: World) -> None:
    """However many, they are no run and cause no pause; each fails, and suppresses if the recipient is at fault."""
    blast = await world.given(120)
    relay = Relay(UNKNOWN, lambda address: int(address[1:].partition("@")[0]) % 3 > 0)
    async with relaying(relay) as server, sending_mail(world, smtp_settings(server.url)):
        counts = await ended(world, blast)
        assert (counts["sent"], counts["failed"]) == (40, 80)
        assert not await paused(world)


async def test_refusal_that_nothing_decides_counts_after_a_while(world: World) -> None:
    """A few recipients, all refused, are no run, so their verdicts count after a while."""
    blast = await world.given(5)
    async with relaying(Relay(UNKNOWN)) as server, sending_mail(world, smtp_settings(server.url)):
        assert (await ended(world, blast))["failed"] == 5
        assert not await paused(world)


async def test_run_of_refusals_survives_a_restart(world: World) -> None:
    """Refusals held by a sender that stopped are neither failed nor forgotten: the next sender continues the count."""
    blast = await given(world, 12, "first")
    relay = Relay(RELAY)
    patient = replace(SETTINGS, time_scale=1.0)
    async with relaying(relay) as server:
        async with sending_mail(world, smtp_settings(server.url), patient):
            await wait_for(lambda: server.heard["RCPT"] >= 12, what="all to be refused")
        assert (await world.progress(blast)).counts["queued"] == 12
        more = await given(world, 8, "more")
        async with sending_mail(world, smtp_settings(server.url), patient):
            await wait_for(lambda: quiet(world), what="the channel to be paused")
            relay.heal()
            await world.control.resume_channel("email")
            assert [(await ended(world, one))["sent"] for one in (blast, more)] == [12, 8]


async def test_slow_run_lifts_what_it_had_suppressed(world: World) -> None:
    """If refusals are so far apart that each counted, the run is still detected, and its suppressions are lifted."""
    async with relaying(Relay(UNKNOWN)) as server, sending_mail(world, smtp_settings(server.url)):
        for number in range(3):
            assert (await ended(world, await given(world, 6, f"slow{number}")))["failed"] == 6

        async def all_suppressed() -> bool:
            return await suppressed(world) == 18

        await wait_for(all_suppressed, what="the verdicts to be carried out")
        await given(world, 6, "last")
        await wait_for(lambda: quiet(world), what="the channel to be paused")
        assert await suppressed(world) == 0


async def test_one_of_two_servers_is_set_aside(world: World) -> None:
    """The other accepts all messages and the channel keeps sending; a probe detects when the first works again."""
    blast = await world.given(400)
    relay = Relay(RELAY)
    async with relaying(relay) as bad, peer() as good:
        async with sending_mail(world, smtp_settings(bad.url, good.url, breaker=BreakerPolicy(5, 0.5, 0.5))):
            assert (await ended(world, blast))["sent"] == 400
            assert not await paused(world)
            relay.heal()

            async def used_again() -> bool:
                await ended(world, await world.given(5))
                return bool(bad.messages)

            await wait_for(used_again, what="the server to be tried again")
        assert len(good.messages) >= 400
    assert await suppressed(world) == 0
