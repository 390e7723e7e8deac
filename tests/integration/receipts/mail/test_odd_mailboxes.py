"""Reading a mailbox on servers that refuse, forget or interrupt: one bad mail or right stops nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import structlog

from services.receipts.mail import mailbox as module
from services.receipts.mail.imap import ImapMailbox
from services.receipts.mail.mailbox import MailboxReader
from services.receipts.mail.settings import MailboxSettings, parse_mailbox_url
from shared.lifecycle import Stop
from tests.integration.receipts.mail.inboxes import FakeInbox, Tally
from tests.integration.receipts.mail.scripted_imap import ScriptedImap
from tests.servers import wait_for

MAILS = [b"Subject: %d\r\n\r\nbody\r\n" % number for number in range(1, 4)]
SEEN, DELETED = "\\Seen", "\\Deleted"


@dataclass
class Leases:
    """A lease that is held as `answers` say, then always; remembers for how long it was asked for."""

    answers: list[bool] = field(default_factory=list)
    asked_for_s: list[float] = field(default_factory=list)

    async def hold(self, for_s: float) -> bool:
        self.asked_for_s.append(for_s)
        return self.answers.pop(0) if self.answers else True

    async def release(self) -> None:
        return None


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def inbox() -> FakeInbox:
    return FakeInbox()


@asynccontextmanager
async def reading(
    server: ScriptedImap, inbox: FakeInbox, options: str = "", every_s: float = 0.02, lease: Leases | None = None
) -> AsyncIterator[MailboxReader]:
    """Read the server's mailbox while the block runs."""
    await server.open()
    settings = replace(parse_mailbox_url(server.url(options)), every_s=every_s)
    stop, reader = Stop(), MailboxReader(settings, inbox, lease or Leases(), Tally())
    task = asyncio.create_task(reader.run(stop))
    try:
        yield reader
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await task
        await server.close()


def flags_of(server: ScriptedImap) -> Sequence[set[str]]:
    return list(server.flags.values())


@pytest.mark.parametrize("way", ["refused", "nil"])
async def test_mail_that_the_server_cannot_read_holds_up_no_other(inbox: FakeInbox, way: str) -> None:
    """It stays as it is, also where mails are deleted, and the mails after it are taken on the same connection."""
    server = ScriptedImap(MAILS)
    if way == "nil":
        server.nil.add(1)
    else:
        server.refused.add("FETCH 1")
    async with reading(server, inbox, "?then=delete"):
        await wait_for(lambda: list(server.mails) == [1], what="the other mails")
        await wait_for(lambda: server.count("SELECT") > 5, what="some more turns")
    assert (inbox.mails, server.flags) == (MAILS[1:], {1: set()})
    assert (server.count("LOGIN"), server.count("UID FETCH 1")) == (1, 1)


async def test_new_connection_tries_an_unreadable_mail_again(inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is replaced after a while, and then reads what the last one could not."""
    monkeypatch.setattr(module, "_LONGEST_CONNECTED_S", 0.2)
    server = ScriptedImap(MAILS)
    server.refused.add("FETCH 1")
    async with reading(server, inbox):
        await wait_for(lambda: len(inbox.mails) == 2, what="the other mails")
        server.refused.clear()
        await wait_for(lambda: inbox.mails == [*MAILS[1:], MAILS[0]], what="the first mail")


async def test_mail_without_a_byte_is_taken(inbox: FakeInbox) -> None:
    """An empty mail is a mail: it is added, marked, and read once."""
    server = ScriptedImap([b"", MAILS[0]])
    async with reading(server, inbox):
        await wait_for(lambda: flags_of(server) == [{SEEN}, {SEEN}], what="the marks")
    assert inbox.mails == [b"", MAILS[0]]


async def test_missing_right_to_expunge_stops_nothing(inbox: FakeInbox) -> None:
    """Each mail is taken once and stays marked as deleted; the connection continues."""
    server = ScriptedImap(MAILS)
    server.refused.add("EXPUNGE")
    async with reading(server, inbox, "?then=delete"):
        await wait_for(lambda: flags_of(server) == [{SEEN, DELETED}] * 3, what="the marks")
        await wait_for(lambda: server.count("SELECT") > 5, what="some more turns")
    assert inbox.mails == MAILS
    assert (server.count("LOGIN"), server.count("UID EXPUNGE")) == (1, 1)


async def test_server_without_uidplus_keeps_mails_marked_as_deleted(inbox: FakeInbox) -> None:
    """Nothing is expunged, since that would remove what others marked, and marked mails are not read again."""
    server = ScriptedImap(MAILS, "IMAP4rev1")
    server.flags[1] = {SEEN, DELETED}
    async with reading(server, inbox, "?then=delete"):
        await wait_for(lambda: flags_of(server) == [{SEEN, DELETED}] * 3, what="the marks")
    assert inbox.mails == MAILS[1:]
    assert server.count("UID EXPUNGE") + server.count("EXPUNGE") + server.count("CLOSE") == 0


async def test_untagged_answers_in_between_change_nothing(inbox: FakeInbox) -> None:
    """What a server reports unasked, such as other clients' flags and arrivals, is not taken for an answer."""
    server = ScriptedImap(MAILS)
    server.noise = "* OK Still here\r\n* 7 EXISTS\r\n* 1 RECENT\r\n* 2 FETCH (FLAGS (\\Seen) UID 2)\r\n"
    async with reading(server, inbox, "?then=delete"):
        await wait_for(lambda: not server.mails, what="an empty mailbox")
    assert inbox.mails == MAILS


async def test_failures_of_the_mail_server_are_timed(inbox: FakeInbox) -> None:
    """A refused log-in counts from its first failure until the mailbox is read again."""
    server = ScriptedImap(MAILS)
    server.refused.add("LOGIN")
    async with reading(server, inbox) as reader:
        await wait_for(
            lambda: reader.failing_s > 1.0 and server.count("LOGIN") > 2,
            what="the time since the first of many failures",
        )
        server.refused.clear()
        await wait_for(lambda: len(inbox.mails) == 3 and reader.failing_s == 0, what="the end of the failure")


async def test_reader_with_a_long_interval_keeps_a_short_lease(
    inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ends soon after a process that dies, so it is short, and is renewed while the reader waits."""
    monkeypatch.setattr(module, "_LONGEST_LEASE_S", 0.15)
    lease, server = Leases(), ScriptedImap(MAILS)
    async with reading(server, inbox, every_s=3600, lease=lease):
        await wait_for(lambda: len(lease.asked_for_s) > 5, what="the renewals")
    assert set(lease.asked_for_s) == {0.15}
    assert server.count("LOGIN") == 1


async def test_process_without_the_lease_does_not_wait_for_the_interval(
    inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for the lease as often as that may end, and then reads at once."""
    monkeypatch.setattr(module, "_LONGEST_LEASE_S", 0.1)
    server = ScriptedImap(MAILS)
    async with reading(server, inbox, every_s=3600, lease=Leases([False, False, False])):
        await wait_for(lambda: inbox.mails == MAILS, what="the mails")


async def test_no_connection_is_left_idle_for_long(inbox: FakeInbox) -> None:
    """A reader with a long interval disconnects after each turn, or the server would do so and look broken."""
    server = ScriptedImap(MAILS)
    async with reading(server, inbox, every_s=3600):
        await wait_for(lambda: server.count("LOGOUT") == 1 and server.clients == 0, what="the end of the connection")
    assert inbox.mails == MAILS


@pytest.mark.parametrize("literal", ["{99999999999}", "{200000000}"])
async def test_a_literal_of_absurd_size_is_a_failure_of_the_server(inbox: FakeInbox, literal: str) -> None:
    """Memory was reserved for all of it: a MemoryError ended the service, and with it the reading of webhooks."""
    server = ScriptedImap(MAILS)
    server.noise = f"* X {literal}\r\n"
    async with reading(server, inbox) as reader:
        await wait_for(lambda: reader.failing_s > 0, what="a failure")
        server.noise = ""
        await wait_for(lambda: len(inbox.mails) == len(MAILS), what="all mails")


async def test_an_error_that_nobody_thought_of_is_logged_and_tried_again(
    inbox: FakeInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mailbox is read by the service that reads webhooks: a mistake in one must not end the other."""
    broken = True

    def connected(settings: MailboxSettings) -> ImapMailbox:
        if broken:
            raise KeyError("EXISTS")
        return ImapMailbox(settings)

    monkeypatch.setattr(module, "ImapMailbox", connected)
    with structlog.testing.capture_logs() as lines:
        async with reading(ScriptedImap(MAILS), inbox) as reader:
            await wait_for(lambda: reader.failing_s > 0, what="a failure")
            broken = False
            await wait_for(lambda: len(inbox.mails) == len(MAILS), what="all mails")
    assert "mailbox_failed" in {one["event"] for one in lines}
