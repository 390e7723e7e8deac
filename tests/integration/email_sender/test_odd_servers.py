"""Servers whose replies come too slowly, too early, or belong to another command."""

from __future__ import annotations

import asyncio
from itertools import chain, repeat

import pytest

from services.email_sender.settings import Timeouts
from shared.errors import PermanentError, SendError, TryLaterError, UnavailableError, UncertainError
from shared.jobs import Attachment
from tests.integration.email_sender.mails import Content, fill, make_mail, smtp_settings
from tests.integration.email_sender.peer import peer
from tests.integration.email_sender.running import opened
from tests.raw_servers import Serve, serving_raw

_QUICK = Timeouts(connect_s=0.5, command_s=0.5, data_s=0.5, idle_s=60.0)
_LARGE = Attachment("film.bin", "application/octet-stream", b"\xf0" * 9_000_000)
_READ_BYTES = 300_000


async def _take_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: str) -> None:
    """Converse until a stage: the greeting, a command, or `.` for the end of the message."""
    if until == "greeting":
        return
    writer.write(b"220 odd.example.com\r\n")
    for verb in (b"EHLO", b"MAIL", b"RCPT", b"DATA"):
        assert (await reader.readline()).startswith(verb)
        if until.encode() == verb:
            return
        writer.write(b"354 go ahead\r\n" if verb == b"DATA" else b"250 odd.example.com\r\n")
    if until == ".":
        await reader.readuntil(b"\r\n.\r\n")


def _dripping(stage: str, endless: bytes) -> Serve:
    """Return a server that begins one reply to a stage and never ends it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _take_message(reader, writer, stage)
        for piece in chain([b"250-"], repeat(endless)):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.1)  # shorter than the time-out: each piece is in time

    return serve


@pytest.mark.parametrize("endless", [b"x", b"wait\r\n250-"], ids=["line", "lines"])
@pytest.mark.parametrize(
    ("stage", "kind"),
    [("greeting", UnavailableError), ("EHLO", UnavailableError), ("RCPT", SendError), (".", UncertainError)],
)
async def test_a_reply_that_never_ends_is_given_up(stage: str, kind: type[SendError], endless: bytes) -> None:
    """The time-out is that of the reply, not of each of its pieces: no message is in flight forever."""
    async with (
        serving_raw(_dripping(stage, endless)) as url,
        asyncio.timeout(20),
        opened(smtp_settings(url.replace("http", "smtp"), timeouts=_QUICK)) as channel,
    ):
        with pytest.raises(kind, match="no reply in time"):
            await channel.send(make_mail())


def _refusing_early(reply: bytes, *, hangs_up: bool) -> Serve:
    """Return a server that refuses a message of which it has read the beginning; then it hangs up, or reads on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _take_message(reader, writer, "")
        await reader.readexactly(_READ_BYTES)
        writer.write(reply)
        await writer.drain()
        if hangs_up:
            writer.write_eof()
        while await reader.read(65536):
            pass

    return serve


@pytest.mark.parametrize("hangs_up", [True, False])
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("552 5.3.4 Message size exceeds fixed limit", PermanentError),
        ("421 4.3.2 shutting down", TryLaterError),
    ],
)
async def test_a_refusal_before_the_end_of_a_message_counts(reply: str, kind: type[SendError], hangs_up: bool) -> None:
    """The reason is the server's, not a lost connection, and the rest of the message is not sent for nothing."""
    serve = _refusing_early(f"{reply}\r\n".encode(), hangs_up=hangs_up)
    async with serving_raw(serve) as url, opened(smtp_settings(url.replace("http", "smtp"))) as channel:
        with pytest.raises(kind) as caught:
            await channel.send(fill(Content(attachments=[_LARGE])))
    assert caught.value.reply == reply


@pytest.mark.parametrize("reply", ["354 go ahead", "334 VXNlcm5hbWU6"])
async def test_a_message_that_gets_the_reply_to_another_command_is_uncertain(reply: str) -> None:
    """The reply to the message follows, and may accept it: to call the first a refusal would send it again."""
    async with peer({".": [f"{reply}\r\n250 2.0.0 ok"]}) as server, opened(smtp_settings(server.url)) as channel:
        with pytest.raises(UncertainError) as caught:
            await channel.send(make_mail())
        assert caught.value.reply == reply
        await channel.send(make_mail())  # over another connection
    assert len(server.sessions) == 2
