"""The session with a server: every reply belongs to its command, whatever the server does."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.email_sender.channel import EmailChannel
from services.email_sender.connection import PIECE_BYTES
from services.email_sender.failures import ConnectionLostError
from services.email_sender.settings import SmtpSettings, Timeouts
from shared.errors import DeferredError, PermanentError, SendError, TransientError, UncertainError
from shared.jobs import Attachment
from tests.awake import awake
from tests.integration.email_sender.mails import Content, fill, make_mail, smtp_settings
from tests.integration.email_sender.peer import CLOSE, SILENCE, USUAL, Peer, peer
from tests.integration.email_sender.running import opened
from tests.servers import wait_for

HASTY = Timeouts(connect_s=30.0, command_s=0.2, data_s=0.2, idle_s=30.0)


def one_connection(server: Peer, options: str = "", **changes: object) -> SmtpSettings:
    return smtp_settings(f"{server.url}?concurrency=1{options}", **changes)


async def test_commands_are_written_ahead_where_the_server_offers_it() -> None:
    """MAIL, RCPT and DATA arrive together with PIPELINING, and one by one without."""
    async with peer() as ahead, peer(extensions=["8BITMIME"]) as patient:
        for server in (ahead, patient):
            async with opened(smtp_settings(server.url)) as channel:
                await channel.send(make_mail())
        assert ahead.sessions[0].together == 3
        assert patient.sessions[0].together == 1
        assert ahead.sessions[0].verbs == patient.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


async def test_refused_recipient_is_its_own_messages_failure() -> None:
    """Of three messages the second is refused at RCPT; the others are sent over the same connection."""
    script = {"RCPT": ["250 ok", "550 5.1.1 no such user", "250 ok"], "DATA": ["354 go", "503 no recipients", "354 go"]}
    async with peer(script) as server, opened(one_connection(server)) as channel:
        await channel.send(make_mail("one@example.com"))
        with pytest.raises(PermanentError) as refused:
            await channel.send(make_mail("two@example.com"))
        await channel.send(make_mail("three@example.com"))
        assert refused.value.reply == "550 5.1.1 no such user"
        assert len(server.sessions) == 1
        assert [b"To: Ana <one@" in server.messages[0], b"To: Ana <three@" in server.messages[1]] == [True, True]
        assert server.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA", "RSET", "MAIL",
                                            "RCPT", "DATA"]  # fmt: skip


async def test_go_ahead_after_a_refused_recipient_is_answered_by_a_lone_dot() -> None:
    """A 354 after a refused RCPT is answered with an empty message (RFC 2920, 3.1); no content is written."""
    script = {"RCPT": ["550 5.1.1 no such user"], ".": ["554 5.5.1 no valid recipients"]}
    async with peer(script) as server, opened(one_connection(server)) as channel:
        with pytest.raises(PermanentError, match="RCPT refused"):
            await channel.send(make_mail("one@example.com"))
        await channel.send(make_mail("two@example.com"))
        assert [len(server.messages[0]), len(server.sessions)] == [0, 1]
        assert b"To: Ana <two@example.com>" in server.messages[1]


async def test_go_ahead_after_a_refused_sender_ends_the_connection() -> None:
    """A server that refuses MAIL but accepts RCPT and DATA gets no dot, since an empty message must reach nobody."""
    async with peer({"MAIL": ["550 5.1.8 bad sender"]}) as server, opened(one_connection(server)) as channel:
        with pytest.raises(PermanentError, match="MAIL refused"):
            await channel.send(make_mail())
        await channel.send(make_mail())
        assert [len(session.messages) for session in server.sessions] == [0, 1]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("extensions", [USUAL, ()], ids=["ahead", "one by one"])
async def test_connection_lost_before_the_dot_is_transient(stage: str, extensions: tuple[str, ...]) -> None:
    """Nothing was handed over: the message may be tried again."""
    async with peer({stage: [CLOSE]}, extensions) as server, opened(one_connection(server)) as channel:
        with pytest.raises(ConnectionLostError):
            await channel.send(make_mail())
        await channel.send(make_mail())
        assert [len(session.messages) for session in server.sessions] == [0, 1]


async def test_connection_lost_after_the_dot_is_uncertain() -> None:
    """The server had the whole message: it may have been delivered."""
    async with peer({".": [CLOSE]}) as server, opened(one_connection(server)) as channel:
        with pytest.raises(UncertainError):
            await channel.send(make_mail())
        assert len(server.messages) == 1


async def test_silence_after_the_dot_is_uncertain_and_a_late_answer_is_nobodys() -> None:
    """The connection with the missing reply is closed, so that a late reply is never taken for the next message's."""
    async with peer({".": [SILENCE]}) as server, opened(one_connection(server, timeouts=HASTY)) as channel:
        with pytest.raises(UncertainError, match="no reply in time"):
            await channel.send(make_mail("one@example.com"))
        await channel.send(make_mail("two@example.com"))
        assert "RCPT TO:<two@example.com>" in server.sessions[1].commands
        assert len(server.sessions) == 2


async def test_silence_before_the_dot_is_transient() -> None:
    """No reply to RCPT within the command time-out: the connection is lost, the message not handed over."""
    async with peer({"RCPT": [SILENCE]}) as server, opened(one_connection(server, timeouts=HASTY)) as channel:
        with pytest.raises(ConnectionLostError, match="no reply in time"):
            await channel.send(make_mail())


async def test_large_message_lost_midway_is_transient() -> None:
    """The server hangs up before the last piece, which has the dot: the message was certainly not handed over."""
    big = Attachment("big.bin", "application/octet-stream", bytes(40 * PIECE_BYTES))
    async with peer() as server, opened(one_connection(server)) as channel:
        sending = asyncio.ensure_future(channel.send(fill(Content(attachments=[big]))))
        await wait_for(lambda: server.heard["DATA"])
        await server.stop()
        with pytest.raises(TransientError):
            await sending
        await server.start()


async def test_large_message_arrives_whole() -> None:
    """A message written in many pieces arrives unchanged, byte for byte."""
    content = bytes(range(256)) * 12_000
    mail = fill(Content(text=".\n.", attachments=[Attachment("big.bin", "application/octet-stream", content)]))
    async with peer() as server, opened(one_connection(server)) as channel:
        await channel.send(mail)
        assert server.messages[0].replace(b"\r\n..", b"\r\n.") == mail.encode(eight_bit=True)


async def test_goodbye_between_messages_costs_nothing() -> None:
    """After a 421 on an idle connection the next message is sent over a new one: no failure, no attempt used."""
    async with peer() as server, opened(one_connection(server)) as channel:
        await channel.send(make_mail())
        await server.say_to_all("421 4.4.2 idle too long")
        await channel.send(make_mail())
        assert [len(session.messages) for session in server.sessions] == [1, 1]


async def test_421_to_the_first_command_of_a_reused_connection_costs_nothing() -> None:
    """A server with a limit of messages per connection answers MAIL with 421; a new connection takes the message."""
    script = {"MAIL": ["250 ok", f"421 4.7.0 too many messages{CLOSE}"]}
    async with peer(script) as server, opened(one_connection(server)) as channel:
        await channel.send(make_mail())
        await channel.send(make_mail())
        assert [len(session.messages) for session in server.sessions] == [1, 1]


async def test_421_on_a_fresh_connection_is_the_messages_answer() -> None:
    """On a new connection the server really asks to slow down."""
    async with peer({"MAIL": [f"421 4.7.0 slow down{CLOSE}"]}) as server, opened(one_connection(server)) as channel:
        with pytest.raises(DeferredError):
            await channel.send(make_mail())
        assert len(server.sessions) == 1


async def test_connection_is_replaced_after_max_messages() -> None:
    """`max_messages` counts messages begun over one connection."""
    async with peer() as server, opened(one_connection(server, "&max_messages=2")) as channel:
        for _ in range(5):
            await channel.send(make_mail())
        assert [len(session.messages) for session in server.sessions] == [2, 2, 1]


async def test_idle_connection_is_closed_and_not_used_again() -> None:
    """After the idle time-out QUIT is sent, without waiting for the next message."""
    timeouts = Timeouts(connect_s=30.0, command_s=30.0, data_s=30.0, idle_s=0.1)
    async with peer() as server, opened(one_connection(server, timeouts=timeouts)) as channel:
        await channel.send(make_mail())
        await wait_for(lambda: server.heard["QUIT"])
        await channel.send(make_mail())
        assert len(server.sessions) == 2


async def test_replies_in_pieces_and_over_many_lines_are_put_together() -> None:
    """A multi-line reply is one reply, in the server's own words."""
    script = {"RCPT": ["550-5.1.1 The email account does not exist.\r\n550-5.1.1 Please check\r\n550 5.1.1 it"]}
    async with peer(script) as server, opened(one_connection(server)) as channel:
        with pytest.raises(PermanentError) as refused:
            await channel.send(make_mail())
    assert refused.value.reply == "550 5.1.1 The email account does not exist.\n5.1.1 Please check\n5.1.1 it"
    assert refused.value.suppress == "550 5.1.1"


@pytest.mark.parametrize("nonsense", ["hello there", "x" * 40_000, "999"])
async def test_bytes_that_are_not_a_reply_end_the_connection(nonsense: str) -> None:
    """Before the dot the outcome is transient, after it uncertain; the next message gets a clean connection."""
    script = {"RCPT": [nonsense], ".": ["no reply either"]}
    async with peer(script) as server, opened(one_connection(server)) as channel:
        with pytest.raises(TransientError):
            await channel.send(make_mail())
        with pytest.raises(UncertainError):
            await channel.send(make_mail())
        await channel.send(make_mail())


async def test_international_address_without_smtputf8_fails_for_good() -> None:
    """The server cannot accept it, so nothing is sent; an address with only an IDN domain is sent."""
    async with peer(extensions=["PIPELINING", "8BITMIME"]) as server, opened(one_connection(server)) as channel:
        with pytest.raises(PermanentError, match="SMTPUTF8") as refused:
            await channel.send(make_mail("jörg@example.com"))
        await channel.send(make_mail("ana@münchen.example"))
        assert refused.value.suppress == ""
        assert server.sessions[0].verbs == ["EHLO", "MAIL", "RCPT", "DATA"]


async def test_parameters_follow_what_the_server_offers() -> None:
    """BODY=8BITMIME and SMTPUTF8 are sent if offered and needed; without 8BITMIME the message is pure ASCII."""
    content = Content(subject="é", text="café\n")
    async with peer(extensions=[*USUAL, "SIZE 1000000"]) as able, peer(extensions=["PIPELINING"]) as plain:
        for server in (able, plain):
            async with opened(one_connection(server)) as channel:
                await channel.send(fill(content))
                await channel.send(make_mail())
        mails = [line for line in able.sessions[0].commands if line.startswith("MAIL")]
        assert mails[0] == f"MAIL FROM:<shop@example.com> SIZE={len(able.messages[0])} BODY=8BITMIME"
        assert "BODY" not in mails[1]
        assert "café".encode() in able.messages[0]
        assert plain.messages[0].isascii()


async def test_cancelled_send_leaves_no_connection_behind() -> None:
    """A cancelled send closes its connection, which is in the middle of a transaction."""
    async with peer({".": [SILENCE]}) as server, opened(one_connection(server)) as channel:
        sending = asyncio.ensure_future(channel.send(make_mail()))
        await wait_for(lambda: server.messages)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await channel.send(make_mail())
        assert len(server.sessions) == 2


async def test_every_message_of_many_gets_its_own_answer() -> None:
    """With refusals of all kinds among acceptances, over few connections, exactly the right messages are refused."""
    answers = {
        "ok": "250 ok",
        "gone": "550 5.1.1 gone",
        "grey": "450 4.7.1 grey",
        "busy": "451 4.3.0 busy",
        "cut": "421 4.3.2 bye",
    }
    kinds = [list(answers)[number * 7 % 5] for number in range(100)]

    def by_recipient(line: str) -> str:
        address = line.partition("<")[2].rstrip(">")
        kind = address.partition(".")[0]
        return f"{answers[kind]} {address}{CLOSE if kind == 'cut' else ''}"

    async def outcome(channel: EmailChannel, address: str) -> str:
        try:
            return (await channel.send(make_mail(address))).response
        except SendError as error:
            return error.reply

    addresses = [f"{kind}.{number}@example.com" for number, kind in enumerate(kinds)]
    async with peer({"RCPT": by_recipient}) as server, opened(smtp_settings(f"{server.url}?concurrency=4")) as channel:
        found = await asyncio.gather(*(outcome(channel, address) for address in addresses))
        accepted = [address for address in addresses if address.startswith("ok")]
        assert sum(any(f"<{one}>".encode() in message for message in server.messages) for one in accepted) == 20
        assert len([message for message in server.messages if message]) == 20
    wanted = [f"{answers[kind]} {address}" for kind, address in zip(kinds, addresses, strict=True)]
    assert found == ["250 2.0.0 ok" if one[0] == "2" else one for one in wanted]


async def test_answer_that_came_while_the_sender_stood_still_is_read() -> None:
    """A process frozen past its time-out reads the reply from its socket when it resumes (attacks G2)."""
    async with peer() as server, opened(smtp_settings(server.url, timeouts=HASTY)) as channel:
        server.delays["."] = 0.1
        sending = asyncio.ensure_future(channel.send(make_mail()))
        await wait_for(lambda: bool(server.messages), what="the message")
        _stand_still(HASTY.data_s * 3)
        assert (await sending).response == "250 2.0.0 ok"


async def test_time_in_which_the_sender_stood_still_is_waited_once_more() -> None:
    """The wait is bounded: without a reply the outcome is uncertain."""
    async with peer({".": [SILENCE]}) as server, opened(smtp_settings(server.url, timeouts=HASTY)) as channel:
        sending = asyncio.ensure_future(channel.send(make_mail()))
        await wait_for(lambda: bool(server.messages), what="the message")
        _stand_still(HASTY.data_s * 3)
        async with awake() as spent:
            with pytest.raises(UncertainError):
                await sending
        assert spent.seconds < HASTY.data_s * 5


async def test_process_that_is_always_late_waits_no_longer_than_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that is always late, where every lateness extends the wait, the wait is at most twice as long."""
    monkeypatch.setattr("shared.clock.SUSPENDED_S", 0.0)
    async with peer({".": [SILENCE]}) as server, opened(smtp_settings(server.url, timeouts=HASTY)) as channel:
        async with awake() as spent:
            with pytest.raises(UncertainError):
                await channel.send(make_mail())
        assert spent.seconds < HASTY.data_s * 10


def _stand_still(seconds: float) -> None:
    """Block the event loop, like a stopped process or a paused machine."""
    time.sleep(seconds)
