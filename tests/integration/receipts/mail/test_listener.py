"""The listener for bounce mail, tested with clients that share no code with it: smtplib and raw bytes."""

from __future__ import annotations

import asyncio
import smtplib
import socket
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from services.receipts.mail.intake import MOST_MAIL_BYTES
from services.receipts.mail.listener import MOST_TAKEN_BYTES, BounceListener
from shared.errors import KurirError, QueueFullError, QueueUnavailableError, SettingsError
from tests.integration.receipts.mail.inboxes import FakeInbox, Tally, headers_of
from tests.servers import wait_for

DOMAIN = "bounces.example.com"
TO = f"b-abc@{DOMAIN}"
MAIL = b"From: MAILER-DAEMON@mx.example.net\r\nSubject: failure\r\n\r\n.gone\r\n\xff\r\n"


@pytest.fixture
def inbox() -> FakeInbox:
    return FakeInbox()


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
async def listener(inbox: FakeInbox, tally: Tally) -> AsyncIterator[BounceListener]:
    listener = BounceListener(DOMAIN, inbox, "127.0.0.1", 0, tally)
    await listener.open()
    yield listener
    await listener.close()


def client(listener: BounceListener) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", listener.port, "mx.example.net", timeout=60)


async def deliver(listener: BounceListener, raw: bytes = MAIL, to: str = TO, sender: str = "") -> tuple[int, bytes]:
    """Deliver one mail and return what the server finally said."""

    def talk() -> tuple[int, bytes]:
        with client(listener) as session:
            try:
                session.ehlo()
                session.docmd("MAIL", f"FROM:<{sender}>")
                code, words = session.docmd("RCPT", f"TO:<{to}>")
                return session.data(raw) if code == 250 else (code, words)
            except smtplib.SMTPResponseException as error:
                return error.smtp_code, str(error.smtp_error).encode()

    return await asyncio.to_thread(talk)


async def test_mail_is_taken_whole_with_its_envelope(listener: BounceListener, inbox: FakeInbox, tally: Tally) -> None:
    """The mail arrives byte for byte behind the fields that name its envelope and its client."""
    assert await deliver(listener) == (250, b"2.0.0 taken as 1-0")
    (taken,) = inbox.mails
    assert taken.endswith(MAIL)
    headers = headers_of(taken)
    assert (headers.get("return-path"), headers.get("delivered-to")) == ("<>", TO)
    assert headers.get("received").startswith("from mx.example.net [127.0.0.1] by bounces.example.com")
    assert tally.counts == {"smtp taken": 1}


async def test_answer_waits_for_redis(listener: BounceListener, inbox: FakeInbox) -> None:
    """The 250 is sent only after the mail was added."""
    inbox.open.clear()
    delivery = asyncio.create_task(deliver(listener))
    await wait_for(lambda: inbox.tried == 1, what="the mail")
    done, _ = await asyncio.wait({delivery}, timeout=0.2)
    assert not done
    inbox.open.set()
    assert (await delivery) == (250, b"2.0.0 taken as 1-0")


@pytest.mark.parametrize(
    ("failure", "code"),
    [(QueueFullError("full", 30), 452), (QueueUnavailableError("Redis is away"), 451)],
    ids=["full", "away"],
)
async def test_without_redis_the_other_server_keeps_the_mail(
    listener: BounceListener, inbox: FakeInbox, tally: Tally, failure: KurirError, code: int
) -> None:
    """The answer is temporary while Redis is full or away, and the same session then delivers it."""
    inbox.failure = failure

    def talk() -> list[int]:
        with client(listener) as session:
            session.ehlo()
            codes = []
            for attempt in range(2):
                session.docmd("MAIL", "FROM:<>")
                session.docmd("RCPT", f"TO:<{TO}>")
                codes.append(session.data(MAIL)[0])
                if attempt == 0:
                    inbox.failure = None
            return codes

    assert await asyncio.to_thread(talk) == [code, 250]
    assert len(inbox.mails) == 1
    assert tally.counts == {"smtp refused": 1, "smtp taken": 1}


@pytest.mark.parametrize("address", ["ana@example.org", f"b-abc@sub.{DOMAIN}", f"b-abc@{DOMAIN}.example.org", "b-abc"])
async def test_mail_for_another_domain_is_refused(listener: BounceListener, inbox: FakeInbox, address: str) -> None:
    """The server relays nothing: a recipient outside its domain is refused for good."""
    code, _ = await deliver(listener, to=address)
    assert 500 <= code < 600
    assert inbox.mails == []


async def test_domain_is_compared_without_case(listener: BounceListener) -> None:
    """Some servers change the case of an address: it is taken all the same."""
    assert await deliver(listener, to=TO.upper()) == (250, b"2.0.0 taken as 1-0")


async def test_each_recipient_has_a_transaction_of_its_own(listener: BounceListener) -> None:
    """A second recipient is put off, as RFC 5321 allows, since each entry names one job."""

    def talk() -> list[int]:
        with client(listener) as session:
            session.ehlo()
            session.docmd("MAIL", "FROM:<>")
            return [session.docmd("RCPT", f"TO:<{one}@{DOMAIN}>")[0] for one in ("a", "b")]

    assert await asyncio.to_thread(talk) == [250, 452]


async def test_mail_beyond_the_limit_is_refused(listener: BounceListener, inbox: FakeInbox) -> None:
    """The limit is announced, and holds for a declared size and for an undeclared one."""

    def talk() -> tuple[str, int, int]:
        with client(listener) as session:
            session.ehlo()
            declared, _ = session.docmd("MAIL", f"FROM:<> SIZE={MOST_TAKEN_BYTES + 1}")
            session.docmd("MAIL", "FROM:<>")
            session.docmd("RCPT", f"TO:<{TO}>")
            sent, _ = session.data(b"a" * 70 + b"\r\n" + (b"b" * 70 + b"\r\n") * (MOST_TAKEN_BYTES // 72))
            return session.esmtp_features["size"], declared, sent

    assert await asyncio.to_thread(talk) == (str(MOST_TAKEN_BYTES), 552, 552)
    assert inbox.mails == []


async def test_bounce_with_the_whole_message_is_taken_and_cut(listener: BounceListener, inbox: FakeInbox) -> None:
    """A bounce that returns a message with files of 10 MB, 14 MB in base64, is taken; its beginning is kept."""
    files = (b"QUJD" * 18 + b"\r\n") * (14_000_000 // 74)
    code, _ = await deliver(listener, MAIL + files)
    assert code == 250
    (taken,) = inbox.mails
    assert MAIL in taken
    assert MOST_MAIL_BYTES <= len(taken) < MOST_MAIL_BYTES + 10_000


async def test_mails_on_the_way_to_redis_count_as_held(
    listener: BounceListener, inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis takes its time over large mails, further large ones are put off instead of filling the memory."""
    monkeypatch.setattr("services.receipts.mail.listener._MOST_HELD_BYTES", 1_000_000)
    large = MAIL + (b"b" * 70 + b"\r\n") * 12_000
    inbox.open.clear()
    first = asyncio.create_task(deliver(listener, large))
    await wait_for(lambda: inbox.tried == 1, what="the first mail")
    second = asyncio.create_task(deliver(listener, large))
    assert (await second)[0] == 452
    inbox.open.set()
    assert (await first)[0] == 250


async def test_client_that_reads_no_answers_is_cut_off(
    inbox: FakeInbox, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends commands and never reads fills no memory with answers, and loses its place after a while."""
    monkeypatch.setattr("services.receipts.mail.listener._IDLE_S", 1.0)
    monkeypatch.setattr("shared.smtp.session._FAREWELL_S", 0.5)
    listener = BounceListener(DOMAIN, inbox, "127.0.0.1", 0, tally)
    await listener.open()
    try:
        with closing(socket.socket()) as connection:
            # small buffers, so that answers soon wait in the session, however slow the machine is
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", listener.port))
            await wait_for(lambda: listener._sessions, what="the session")
            (session,) = listener._sessions
            session._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sizes = [0]

            async def flood() -> None:
                while True:
                    await asyncio.get_running_loop().sock_sendall(connection, b"NOOP\r\n" * 10_000)

            def is_cut_off_or_full() -> bool:
                sizes.append(session._transport.get_write_buffer_size())
                return not listener._sessions or max(sizes) > 8 * 1024 * 1024

            flooding = asyncio.create_task(flood())
            await wait_for(is_cut_off_or_full, what="the end of the session")
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(flooding, 20)
            assert 0 < max(sizes) < 8 * 1024 * 1024
    finally:
        await listener.close()


async def test_envelope_cannot_add_fields(listener: BounceListener, inbox: FakeInbox) -> None:
    """A line end in an address does not become one in the mail."""
    with closing(socket.create_connection(("127.0.0.1", listener.port), timeout=60)) as connection:
        said = (
            b"EHLO x\r\nMAIL FROM:<a\rDelivered-To: b@c>\r\nRCPT TO:<%b>\r\nDATA\r\nX: y\r\n\r\nz\r\n.\r\n"
            % TO.encode()
        )
        await asyncio.to_thread(connection.sendall, said)
        await wait_for(lambda: inbox.mails, what="the mail")
    assert headers_of(inbox.mails[0]).all("delivered-to") == [TO]


async def test_too_many_clients_are_put_off(listener: BounceListener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit of connections the listener answers 421, and serves again when one has ended."""
    monkeypatch.setattr("services.receipts.mail.listener.MAX_SESSIONS", 2)

    def talk() -> int:
        with client(listener), client(listener):
            with pytest.raises(smtplib.SMTPConnectError) as refused:
                client(listener)
            return refused.value.smtp_code

    assert await asyncio.to_thread(talk) == 421
    await wait_for(lambda: not listener._sessions, what="the end of the sessions")
    assert await deliver(listener) == (250, b"2.0.0 taken as 1-0")


async def test_session_of_errors_ends(listener: BounceListener) -> None:
    """A client that sends no SMTP is cut off after twenty errors."""

    def talk() -> bytes:
        with closing(socket.create_connection(("127.0.0.1", listener.port), timeout=60)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n" * 30)
            received = b""
            while more := connection.recv(4096):
                received += more
            return received

    received = await asyncio.to_thread(talk)
    assert received.splitlines()[-1].startswith(b"421")
    assert received.count(b"500 ") < 25


async def test_client_that_only_drips_is_cut_off(
    inbox: FakeInbox, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session ends after its longest time, even if a byte comes now and then."""
    monkeypatch.setattr("services.receipts.mail.listener._IDLE_S", 0.2)
    monkeypatch.setattr("services.receipts.mail.listener._LONGEST_S", 0.5)
    listener = BounceListener(DOMAIN, inbox, "127.0.0.1", 0, tally)
    await listener.open()
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        await wait_for(lambda: listener._sessions, what="the session")

        async def drip() -> None:
            while listener._sessions:
                writer.write(b"N")
                await asyncio.sleep(0.02)

        # the answer itself may be lost, because bytes of the client are still on their way
        async with asyncio.timeout(20):
            await drip()
        writer.close()
    finally:
        await listener.close()


async def test_many_unfinished_mails_are_put_off(listener: BounceListener, monkeypatch: pytest.MonkeyPatch) -> None:
    """While all sessions together hold too much, a mail is refused for the time being and forgotten."""
    monkeypatch.setattr("services.receipts.mail.listener._MOST_HELD_BYTES", 100_000)
    code, words = await deliver(listener, b"a" * 70 + b"\r\n" + (b"b" * 70 + b"\r\n") * 10_000)
    assert (code, words) == (452, b"4.3.1 too much mail at once")
    assert await deliver(listener) == (250, b"2.0.0 taken as 1-0")


async def test_mail_that_is_being_added_is_answered_before_the_end(inbox: FakeInbox, tally: Tally) -> None:
    """A stop waits for the mails that are being added, so the other server learns that they were taken."""
    listener = BounceListener(DOMAIN, inbox, "127.0.0.1", 0, tally)
    await listener.open()
    port = listener.port
    inbox.open.clear()
    delivery = asyncio.create_task(deliver(listener))
    await wait_for(lambda: inbox.tried == 1, what="the mail")
    ending = asyncio.create_task(listener.close())
    await asyncio.sleep(0)
    inbox.open.set()
    assert await delivery == (250, b"2.0.0 taken as 1-0")
    await ending
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_port_in_use_is_a_problem_of_the_settings(listener: BounceListener, inbox: FakeInbox) -> None:
    """The error names the variable and the address."""
    second = BounceListener(DOMAIN, inbox, "127.0.0.1", listener.port, Tally())
    with pytest.raises(SettingsError, match=r"KURIR_BOUNCE_SMTP_PORT.*127\.0\.0\.1"):
        await second.open()
