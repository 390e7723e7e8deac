"""Reading a mailbox on Debian's Dovecot: nothing is marked before it was added, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from services.receipts.mail import mailbox as module
from services.receipts.mail.imap import ImapMailbox, MailboxError
from services.receipts.mail.mailbox import Lease, MailboxReader
from services.receipts.mail.settings import parse_mailbox_url
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop
from shared.queue.connection import connect
from shared.queue.mailbox_lease import MailboxLease
from tests.integration.receipts.mail.dovecot import PASSWORD, Dovecot
from tests.integration.receipts.mail.inboxes import FakeInbox, Tally
from tests.servers import wait_for

MAILS = [b"From: MAILER-DAEMON@mx.example.net\r\nSubject: %d\r\n\r\n\xff body\r\n" % number for number in range(3)]
SEEN = "\\Seen"


@dataclass
class Free:
    """A lease that nobody else wants."""

    async def hold(self, _for_s: float) -> bool:
        return True

    async def release(self) -> None:
        return None


@pytest.fixture(scope="module")
def server() -> Iterator[Dovecot]:
    """One Dovecot for all tests; each has a folder of its own."""
    server = Dovecot()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def folder(request: pytest.FixtureRequest, server: Dovecot) -> str:
    name = f"f{abs(hash(request.node.name)) % 10**8}"
    server.append(*MAILS, folder=name)
    return name


@pytest.fixture
def inbox() -> FakeInbox:
    return FakeInbox()


@asynccontextmanager
async def reading(url: str, server: Dovecot, inbox: FakeInbox, lease: Lease | None = None) -> AsyncIterator[Tally]:
    """Read a mailbox while the block runs, without pauses."""
    settings = replace(parse_mailbox_url(url, str(server.ca_file)), every_s=0.02)
    stop, tally = Stop(), Tally()
    task = asyncio.create_task(MailboxReader(settings, inbox, lease or Free(), tally).run(stop))
    try:
        yield tally
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await task


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.1)


@pytest.mark.parametrize("scheme", ["imaps", "imap"])
async def test_mails_are_added_whole_then_marked_as_seen(
    server: Dovecot, folder: str, inbox: FakeInbox, scheme: str
) -> None:
    """Each mail is added once, byte for byte, over TLS from the start or by STARTTLS; the mailbox keeps them."""
    async with reading(server.url(folder, scheme=scheme), server, inbox) as tally:
        await wait_for(lambda: server.flags(folder) == [SEEN] * 3, what="the marks")
        server.append(b"Subject: later\r\n\r\n", folder=folder)
        await wait_for(lambda: len(inbox.mails) == 4, what="the later mail")
        await wait_for(lambda: server.flags(folder) == [SEEN] * 4, what="the last mark")
    assert inbox.mails == [*MAILS, b"Subject: later\r\n\r\n"]
    assert tally.counts == {"imap taken": 4}


async def test_mails_are_deleted_if_the_settings_say_so(server: Dovecot, folder: str, inbox: FakeInbox) -> None:
    """With `then=delete` the mailbox is empty in the end, and every mail was added."""
    async with reading(server.url(folder, "?then=delete"), server, inbox):
        await wait_for(lambda: server.flags(folder) == [], what="an empty mailbox")
    assert inbox.mails == MAILS


@pytest.mark.parametrize("options", ["", "?then=delete"])
async def test_nothing_is_marked_while_redis_is_away(
    server: Dovecot, folder: str, inbox: FakeInbox, options: str
) -> None:
    """A mail that was not added stays as it is, also where mails are deleted; once Redis is back, all are taken."""
    inbox.failure = QueueUnavailableError("Redis is away")
    async with reading(server.url(folder, options), server, inbox):
        await wait_for(lambda: inbox.tried >= 3, what="some attempts")
        assert server.flags(folder) == [""] * 3
        inbox.failure = None
        await wait_for(lambda: server.flags(folder) == ([] if options else [SEEN] * 3), what="the marks")
    assert inbox.mails == MAILS


async def test_mail_is_read_again_if_its_mark_was_lost(
    server: Dovecot, folder: str, inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between adding and marking nothing is lost: the same mail, with the same bytes, comes again."""
    marked: list[str] = []
    mark = ImapMailbox.mark

    def failing_once(self: ImapMailbox, uid: str) -> None:
        marked.append(uid)
        if len(marked) == 1:
            self.interrupt()
        mark(self, uid)

    monkeypatch.setattr(ImapMailbox, "mark", failing_once)
    async with reading(server.url(folder), server, inbox):
        await wait_for(lambda: server.flags(folder) == [SEEN] * 3, what="the marks")
    assert inbox.mails == [MAILS[0], *MAILS]


async def test_mail_that_a_killed_process_left_is_read_again_and_removed(server: Dovecot, inbox: FakeInbox) -> None:
    """A mail that is marked as seen and deleted goes through the stream once more and is removed.

    What somebody deleted unread, and what is only seen, stays as it is.
    """
    left, deleted, seen, new = (b"Subject: %d\r\n\r\n" % number for number in range(4))
    flagged = {left: r"(\Seen \Deleted)", deleted: r"(\Deleted)", seen: r"(\Seen)", new: ""}
    for mail, flags in flagged.items():
        server.append(mail, folder="left", flags=flags)
    async with reading(server.url("left", "?then=delete"), server, inbox):
        await wait_for(lambda: server.flags("left") == ["\\Deleted", SEEN], what="the removal")
    assert inbox.mails == [left, new]


async def test_connection_lost_before_the_expunge_leaves_nothing(
    server: Dovecot, folder: str, inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail whose connection ends between its mark and its removal is removed on the next one."""
    expunged: list[str] = []
    expunge = ImapMailbox._expunge

    def failing_once(self: ImapMailbox, uid: str) -> None:
        expunged.append(uid)
        if len(expunged) == 1:
            self.interrupt()
        expunge(self, uid)

    monkeypatch.setattr(ImapMailbox, "_expunge", failing_once)
    async with reading(server.url(folder, "?then=delete"), server, inbox):
        await wait_for(lambda: server.flags(folder) == [], what="an empty mailbox")
    assert inbox.mails == [MAILS[0], *MAILS]


async def test_short_outage_of_redis_delays_no_mail_for_minutes(
    server: Dovecot, folder: str, inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is asked again soon, however often it was away: its outage is not a reason to spare the mail server."""
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 1000.0)
    monkeypatch.setattr(module, "_LONGEST_WITHOUT_REDIS_S", 0.05)
    inbox.failure = QueueUnavailableError("Redis is away")
    async with reading(server.url(folder), server, inbox):
        await wait_for(lambda: inbox.tried >= 15, what="many attempts")
        inbox.failure = None
        await wait_for(lambda: inbox.mails == MAILS, what="the mails")


async def test_reader_reconnects_when_the_server_was_away(server: Dovecot, folder: str, inbox: FakeInbox) -> None:
    """A server that stops and starts again is read again, with the mail that came meanwhile."""
    async with reading(server.url(folder), server, inbox):
        await wait_for(lambda: len(inbox.mails) == 3, what="the first mails")
        server.stop()
        await asyncio.sleep(0.3)
        server.start()
        server.append(b"Subject: later\r\n\r\n", folder=folder)
        await wait_for(lambda: len(inbox.mails) == 4, what="the later mail")


async def test_one_of_two_processes_reads(server: Dovecot, folder: str, inbox: FakeInbox, valkey_url: str) -> None:
    """Two readers with the lease of a real Redis take each mail once; when one leaves, the other takes over."""
    redis = connect(valkey_url)
    first, second = (MailboxLease(redis, folder, name) for name in ("one", "two"))
    url = server.url(folder)
    try:
        async with reading(url, server, inbox, second):
            async with reading(url, server, inbox, first):
                await wait_for(lambda: server.flags(folder) == [SEEN] * 3, what="the marks")
            assert inbox.mails == MAILS
            server.append(b"Subject: later\r\n\r\n", folder=folder)
            await wait_for(lambda: len(inbox.mails) == 4, what="the later mail")
    finally:
        await redis.aclose()


async def test_error_about_the_password_does_not_show_it(server: Dovecot) -> None:
    """The error has the server's words, and neither it nor the settings show the password."""
    settings = parse_mailbox_url(server.url(password="not the one"), str(server.ca_file))
    with pytest.raises(MailboxError, match="cannot open the mailbox") as refused:
        await asyncio.to_thread(ImapMailbox, settings)
    assert "not the one" not in f"{refused.value} {settings!r} {settings.name}"
    assert PASSWORD not in repr(parse_mailbox_url(server.url()))


async def test_certificate_that_nobody_vouches_for_is_not_trusted(server: Dovecot) -> None:
    """Without its authority no password is sent."""
    with pytest.raises(MailboxError, match="certificate"):
        await asyncio.to_thread(ImapMailbox, parse_mailbox_url(server.url()))


async def test_folder_with_any_name_is_read(server: Dovecot, inbox: FakeInbox) -> None:
    """Names beyond ASCII, with spaces and with `&`, are those of RFC 3501."""
    server.append(*MAILS, folder='Zur&APw-ck &- \\"da\\"')
    async with reading(server.url('Zurück & "da"'), server, inbox):
        await wait_for(lambda: len(inbox.mails) == 3, what="the mails")


async def test_missing_folder_is_reported(server: Dovecot) -> None:
    """The error names the folder's refusal in the server's words."""
    settings = parse_mailbox_url(server.url("nowhere"), str(server.ca_file))
    with pytest.raises(MailboxError, match="SELECT"):
        await asyncio.to_thread(ImapMailbox, settings)
