"""Messages announced together with the end of the previous one: each reply still belongs to its own message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import pytest

from services.email_sender.channel import EmailChannel
from services.email_sender.message import Frame, Mail
from shared.errors import PermanentError, SendError, UncertainError
from shared.sending.provider import Receipt, Start, at_once
from tests.integration.email_sender.mails import MAIL, make_blast, make_job, smtp_settings
from tests.integration.email_sender.peer import CLOSE, Peer, peer
from tests.integration.email_sender.running import opened, sending_mail
from tests.integration.queue.world import World
from tests.integration.sending.running import SETTINGS
from tests.servers import wait_for

NO_SUCH_USER = "550 5.1.1 no such user"


def _mails(count: int) -> list[Mail]:
    """Return messages of one blast, to r0, r1 …"""
    frame = Frame(make_blast(), MAIL)
    return [frame.fill(make_job(f"r{index}@example.com", index=index)) for index in range(count)]


def _following(coming: Sequence[Mail]) -> Callable[[], Mail | None]:
    return lambda: coming[0] if coming else None


async def _send_all(channel: EmailChannel, messages: Sequence[Mail]) -> list[Receipt | SendError]:
    """Send messages one after the other, each with the next one following."""
    found: list[Receipt | SendError] = []
    for message, *coming in (messages[index : index + 2] for index in range(len(messages))):
        try:
            found.append(await channel.send_chained(message, _following(coming)))
        except SendError as error:
            found.append(error)
    return found


def _delivered(server: Peer) -> list[int]:
    """Return the indexes of the messages that were handed over, in order; empty messages do not count."""
    jobs = [message.partition(b"X-Kurir-Job: ")[2].split(b":") for message in server.messages if message]
    return [int(job[1]) for job in jobs]


async def test_next_message_is_announced_with_the_end_of_this_one() -> None:
    """Ten messages take one connection and eleven writes, and arrive in order."""
    async with peer() as server, opened(smtp_settings(server.url)) as channel:
        found = await _send_all(channel, _mails(10))
    assert all(isinstance(one, Receipt) for one in found)
    assert _delivered(server) == list(range(10))
    assert [session.announced for session in server.sessions] == [9]


async def test_refused_recipient_is_the_refusal_of_its_own_message() -> None:
    """Only the messages to the refused recipients fail."""
    refused = {2, 3, 7}
    script = {"RCPT": lambda line: NO_SUCH_USER if any(f"<r{one}@" in line for one in refused) else "250 ok"}
    async with peer(script) as server, opened(smtp_settings(server.url)) as channel:
        found = await _send_all(channel, _mails(10))
    assert {index for index, one in enumerate(found) if isinstance(one, PermanentError)} == refused
    assert _delivered(server) == [index for index in range(10) if index not in refused]


async def test_refused_content_does_not_touch_the_message_announced_with_it() -> None:
    """A refusal of the final dot fails only this message; the replies to the commands after it belong to the next."""
    answers = ["250 ok", "554 5.6.0 no", "250 ok", "554 5.6.0 no"]
    async with peer({".": answers}) as server, opened(smtp_settings(server.url)) as channel:
        found = await _send_all(channel, _mails(6))
    assert [isinstance(one, Receipt) for one in found] == [True, False, True, False, True, True]
    assert _delivered(server) == list(range(6))
    assert len(server.sessions) == 1


async def test_connection_lost_after_the_dot_is_uncertain_for_that_message_alone() -> None:
    """The message whose reply was lost is uncertain; the announced one is sent once, over a new connection."""
    async with peer({".": ["250 ok", CLOSE]}) as server, opened(smtp_settings(server.url)) as channel:
        found = await _send_all(channel, _mails(5))
    assert [type(one) for one in found] == [Receipt, UncertainError, Receipt, Receipt, Receipt]
    assert _delivered(server) == list(range(5))


@pytest.mark.parametrize("answer", [CLOSE, f"421 4.3.2 too many messages{CLOSE}"])
async def test_server_that_hangs_up_on_the_next_message_costs_nothing(answer: str) -> None:
    """A server may close after any message: the next is sent over a new connection, without an error."""
    script = {"MAIL": ["250 ok", "250 ok", answer]}
    async with peer(script) as server, opened(smtp_settings(server.url)) as channel:
        found = await _send_all(channel, _mails(5))
    assert all(isinstance(one, Receipt) for one in found)
    assert _delivered(server) == list(range(5))


@pytest.mark.parametrize("answer", [CLOSE, f"421 4.3.2 too many messages{CLOSE}"])
async def test_server_that_hangs_up_in_mid_chain_costs_nothing(answer: str) -> None:
    """The same where one call sends message after message over a connection that it opened itself."""
    mails = _mails(5)
    coming, accepted = iter(mails[1:]), list[Receipt]()

    def proceed(receipt: Receipt) -> Start:
        accepted.append(receipt)
        return at_once

    async with (
        peer({"MAIL": ["250 ok", "250 ok", answer]}) as server,
        opened(smtp_settings(server.url)) as channel,
    ):
        message: Mail | None = mails[0]
        while message is not None:
            announced: list[Mail] = []

            def following(announced: list[Mail] = announced) -> Mail | None:
                announced += (one := list(islice(coming, 1)))
                return one[0] if one else None

            before = len(accepted)
            accepted.append(await channel.send_chained(message, following, at_once, proceed))
            taken = len(accepted) - before
            message = announced[taken - 1] if len(announced) >= taken else next(coming, None)
    assert len(accepted) == len(mails)
    assert _delivered(server) == list(range(5))


async def test_withdrawn_message_was_not_handed_over() -> None:
    """A message announced and then withdrawn reaches no recipient, and its connection is not used again."""
    first, withdrawn, last = _mails(3)
    async with peer() as server, opened(smtp_settings(server.url)) as channel:
        await channel.send_chained(first, lambda: withdrawn)
        channel.withdraw(withdrawn)
        await channel.send_chained(last, lambda: None)
        assert _delivered(server) == [0, 2]
        assert len(server.sessions) == 2


@pytest.mark.parametrize("extensions", [("8BITMIME",), ("PIPELINING", "8BITMIME")])
async def test_only_a_server_that_pipelines_is_written_ahead_to(extensions: Sequence[str]) -> None:
    """Without PIPELINING in the reply to EHLO nothing is announced before its turn."""
    async with peer(extensions=extensions) as server, opened(smtp_settings(server.url)) as channel:
        await _send_all(channel, _mails(4))
    assert sum(session.announced for session in server.sessions) == (3 if "PIPELINING" in extensions else 0)


async def test_chain_ends_where_the_connection_has_sent_enough() -> None:
    """With a limit of three messages per connection, the fourth message gets a new connection."""
    async with peer() as server, opened(smtp_settings(f"{server.url}?max_messages=3")) as channel:
        await _send_all(channel, _mails(7))
    assert [len(session.messages) for session in server.sessions] == [3, 3, 1]
    assert _delivered(server) == list(range(7))


async def test_whole_sender_announces_and_delivers_each_message_once(world: World) -> None:
    """While a blast is sent, many messages are announced with the end of the previous one; none is sent twice."""
    blast = await world.given(300)
    async with peer() as server, sending_mail(world, smtp_settings(server.url), replace(SETTINGS, concurrency=2)):

        async def all_sent() -> bool:
            return (await world.progress(blast)).counts["sent"] == 300

        await wait_for(all_sent, 60, "all to be sent")
    assert sorted(_delivered(server)) == list(range(300))
    assert sum(session.announced for session in server.sessions) > 100
    await world.check_balance()
