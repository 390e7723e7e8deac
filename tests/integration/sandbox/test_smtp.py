"""The sandbox's SMTP server, tested with clients that share no code with it: smtplib, aiosmtplib and raw bytes."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import time
from collections.abc import Iterator
from email.message import EmailMessage

import aiosmtplib
import pytest

from tests.integration.sandbox.running import Sandbox
from tests.servers import wait_for


def mail(to: str, job_id: str = "b:0:email", text: str = "hello") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "kurir@example.com", to, "Halo ꦱꦶꦠꦶ"
    message["Message-ID"], message["X-Kurir-Job"] = "<b.0.email.1@example.com>", job_id
    message.set_content(text)
    return message


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=60) as client:
        yield client


class Wire:
    """A raw connection: the test writes every byte."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._socket = socket.create_connection(("127.0.0.1", sandbox.smtp_port), timeout=60)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Wire:
        assert self.reply().startswith("220")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def reply(self) -> str:
        """Read one reply and return its last line."""
        while (line := self._file.readline().decode()) and line[3:4] == "-":
            pass
        return line.rstrip("\r\n")

    def ask(self, data: bytes) -> str:
        self.write(data)
        return self.reply()


def test_a_mail_is_accepted_and_recorded(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    """The line in the file has recipient, job, message id and subject, and is written before the answer."""
    client.send_message(mail("siti@example.com", "b:7:email"))
    (line,) = sandbox.delivered()
    assert line.pop("at_ms") == pytest.approx(time.time() * 1000, abs=60_000)
    assert line == {
        "channel": "email",
        "to": "siti@example.com",
        "jobId": "b:7:email",
        "messageId": "<b.0.email.1@example.com>",
        "subject": "Halo ꦱꦶꦠꦶ",
    }


def test_ehlo_lists_the_extensions(client: smtplib.SMTP) -> None:
    """EHLO lists exactly the supported extensions."""
    client.ehlo()
    assert set(client.esmtp_features) == {"pipelining", "size", "8bitmime", "enhancedstatuscodes", "smtputf8"}


def test_simulated_failures(client: smtplib.SMTP, sandbox: Sandbox) -> None:
    """bounce is refused at RCPT TO, greylist once, flaky twice; only their last attempts are deliveries."""
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        client.send_message(mail("bounce+17@example.com"))
    assert refused.value.recipients["bounce+17@example.com"][0] == 550
    for address, times, code, words in (
        ("greylist@x.org", 1, 450, "4.7.1 try again in 2 seconds"),
        ("flaky@x.org", 2, 451, "4.3.0"),
    ):
        for _ in range(times):
            with pytest.raises(smtplib.SMTPDataError) as failed:
                client.send_message(mail(address))
            assert failed.value.smtp_code == code
            assert words in str(failed.value)
        client.send_message(mail(address))
    assert [line["to"] for line in sandbox.delivered()] == ["greylist@x.org", "flaky@x.org"]


def test_drop_closes_without_an_answer(client: smtplib.SMTP, sandbox: Sandbox) -> None:
    """The client gets no answer, and nothing is accepted."""
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.send_message(mail("drop@example.com"))
    assert sandbox.delivered() == []


async def test_slow_is_recorded_first_and_answered_late(sandbox: Sandbox) -> None:
    """The message counts as delivered before it is answered, and other sessions are not delayed."""
    slow, fast = (aiosmtplib.SMTP(hostname="127.0.0.1", port=sandbox.smtp_port) for _ in range(2))
    async with slow, fast:
        began = time.monotonic()
        await slow.send_message(mail("slow@example.com"))
        assert time.monotonic() - began >= 0.5
        # the other session is served within a time for which this process may stand still
        sandbox.fault(channel="email", answer="slow", delayMs=600_000, times=1)
        waiting = asyncio.create_task(slow.send_message(mail("slower@example.com")))
        await wait_for(lambda: len(sandbox.delivered()) == 2, what="the slow message to be written down")
        await fast.send_message(mail("fast@example.com"))
        assert not waiting.done()
        waiting.cancel()
        slow.close()
    assert [line["to"].partition("@")[0] for line in sandbox.delivered()] == ["slow", "slower", "fast"]


def test_dots_are_unstuffed(sandbox: Sandbox) -> None:
    """Lines that begin with dots arrive unchanged, the first one included; only a single dot ends the message."""
    with Wire(sandbox) as wire:
        assert wire.ask(b"EHLO me\r\n").startswith("250")
        assert wire.ask(b"MAIL FROM:<a@example.com>\r\n").startswith("250 2.1.0")
        assert wire.ask(b"RCPT TO:<b@example.com>\r\n").startswith("250 2.1.5")
        assert wire.ask(b"DATA\r\n").startswith("354")
        assert wire.ask(b"..X: 1\r\n\r\n..\r\n...\r\n.. \r\nend.\r\n.\r\n").startswith("250 2.0.0")
    (message,) = sandbox.call("GET", "/messages").json["messages"]
    assert (
        sandbox.call("GET", f"/messages/{message['number']}/source").body == b".X: 1\r\n\r\n.\r\n..\r\n. \r\nend.\r\n"
    )


def test_pipelined_commands_are_answered_in_order(sandbox: Sandbox) -> None:
    """MAIL, RCPT, RCPT and DATA arrive in one write; a refused recipient does not affect the other."""
    with Wire(sandbox) as wire:
        wire.ask(b"EHLO me\r\n")
        wire.write(b"MAIL FROM:<>\r\nRCPT TO:<bounce@x.org>\r\nRCPT TO:<ok@x.org>\r\nDATA\r\n")
        assert [wire.reply()[:3] for _ in range(4)] == ["250", "550", "250", "354"]
        wire.write(b"A: b\r\n\r\nc\r\n.\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<bounce@x.org>\r\nDATA\r\nQUIT\r\n")
        assert [wire.reply()[:9] for _ in range(5)] == ["250 2.0.0", "250 2.1.0", "550 5.1.1", "554 5.5.1", "221 2.0.0"]
    assert [line["to"] for line in sandbox.delivered()] == ["ok@x.org"]


def test_a_message_may_arrive_byte_by_byte(sandbox: Sandbox) -> None:
    """The end is found wherever the pieces are split."""
    with Wire(sandbox) as wire:
        wire.ask(b"EHLO me\r\n")
        wire.write(b"MAIL FROM:<a@x.org>\r\nRCPT TO:<ok@x.org>\r\nDATA\r\n")
        assert [wire.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        for byte in b"A: b\r\n\r\n.\r.\n\r\n.\r\n":
            wire.write(bytes([byte]))
        assert wire.reply().startswith("550 5.6.0")  # the bare CR and LF, not an end of data


@pytest.mark.parametrize("smuggled", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r"])
def test_only_a_dot_between_crlfs_ends_a_message(sandbox: Sandbox, smuggled: bytes) -> None:
    """A lenient end of data would let a client smuggle in a second message."""
    with Wire(sandbox) as wire:
        wire.ask(b"EHLO me\r\n")
        wire.write(b"MAIL FROM:<a@x.org>\r\nRCPT TO:<ok@x.org>\r\nDATA\r\n")
        assert [wire.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        wire.write(
            b"A: b\r\n\r\nc"
            + smuggled
            + b"MAIL FROM:<e@x.org>\r\nRCPT TO:<evil@x.org>\r\nDATA\r\nA: b\r\n.\r\nNOOP\r\n"
        )
        assert [wire.reply()[:9] for _ in range(2)] == ["550 5.6.0", "250 2.0.0"]
    assert sandbox.delivered() == []


@pytest.mark.parametrize(
    ("commands", "replies"),
    [
        (["MAIL FROM:<a@x.org>"], ["503 5.5.1"]),
        (["EHLO"], ["501 5.5.4"]),
        (["HELO me", "MAIL FROM:<a@x.org> SIZE=5"], ["250 sandb", "555 5.5.4"]),
        (["EHLO me", "MAIL FROM:<a@x.org> SIZE=99999999"], ["250 SMTPU", "552 5.3.4"]),
        (["EHLO me", "MAIL FROM:a@x.org"], ["250 SMTPU", "501 5.5.4"]),
        (["EHLO me", "MAIL FROM:<a@x.org> FOO=1"], ["250 SMTPU", "555 5.5.4"]),
        (["EHLO me", "MAIL FROM:<a@x.org>", "RCPT TO:<ö@x.org>"], ["250 SMTPU", "250 2.1.0", "550 5.6.7"]),
        (["EHLO me", "MAIL FROM:<ä@x.org> SMTPUTF8", "RCPT TO:<ö@x.org>"], ["250 SMTPU", "250 2.1.0", "250 2.1.5"]),
        (["EHLO me", 'MAIL FROM:<"a>b"@x.org> BODY=8BITMIME', "RCPT TO:<x>"], ["250 SMTPU", "250 2.1.0", "501 5.1.3"]),
        (["EHLO me", "MAIL FROM:<a@x.org>", "RSET", "DATA"], ["250 SMTPU", "250 2.1.0", "250 2.0.0", "503 5.5.1"]),
        (["noop", "VRFY a", "AUTH PLAIN", "x" * 5000], ["250 2.0.0", "252 2.5.0", "500 5.5.2", "500 5.5.2"]),
    ],
)  # fmt: skip
def test_commands_out_of_order_and_out_of_bounds(sandbox: Sandbox, commands: list[str], replies: list[str]) -> None:
    """Each gets the standard's reply code, and the session continues unless a line is too long."""
    with Wire(sandbox) as wire:
        assert [wire.ask(command.encode() + b"\r\n")[:9] for command in commands] == replies


def test_a_message_that_is_too_large_is_refused(sandbox: Sandbox) -> None:
    """It is read to its end without being stored, then refused, and the session continues."""
    with Wire(sandbox) as wire:
        wire.ask(b"EHLO me\r\n")
        wire.write(b"MAIL FROM:<a@x.org>\r\nRCPT TO:<ok@x.org>\r\nDATA\r\n")
        assert [wire.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        block = (b"x" * 98 + b"\r\n") * 10_000
        for _ in range(37):
            wire.write(block)
        assert wire.ask(b".\r\n").startswith("552 5.3.4")
        assert wire.ask(b"NOOP\r\n").startswith("250")


def test_many_connections_at_once(sandbox: Sandbox) -> None:
    """A hundred parallel sessions are all served."""
    wires = [Wire(sandbox) for _ in range(100)]
    for number, wire in enumerate(wires):
        with wire:
            wire.ask(b"EHLO me\r\n")
            wire.write(b"MAIL FROM:<a@x.org>\r\nRCPT TO:<r%d@x.org>\r\nDATA\r\n" % number)
            assert [wire.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            assert wire.ask(b"A: b\r\n\r\nc\r\n.\r\n").startswith("250")
    assert {line["to"] for line in sandbox.delivered()} == {f"r{number}@x.org" for number in range(100)}
