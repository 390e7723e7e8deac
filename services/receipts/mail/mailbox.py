"""Reads bounce mail from a mailbox: adds each mail to the stream, and marks it only once Redis has it.

If the process dies in between, the mail is read again; its receipts are then equal to the first ones and change
nothing. Of several processes the one with the lease reads.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from services.receipts.mail.imap import ImapMailbox, MailboxError
from services.receipts.mail.intake import SOURCE, Counted, Inbox
from services.receipts.mail.settings import MailboxSettings
from shared.errors import QueueFullError, QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger

_MOST_AT_ONCE = 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
_CLOSE_S = 5.0


class Lease(Protocol):
    """The lease of the mailbox (`shared.queue.mailbox_lease.MailboxLease`)."""

    async def hold(self, for_s: float) -> bool:
        """Take or renew it; return whether this process has it."""
        ...

    async def release(self) -> None:
        """Give it up."""
        ...


class MailboxReader:
    """Reads one mailbox until it is asked to stop."""

    def __init__(self, settings: MailboxSettings, inbox: Inbox, lease: Lease, counted: Counted) -> None:
        self._settings = settings
        self._inbox = inbox
        self._lease = lease
        self._counted = counted
        self._mailbox: ImapMailbox | None = None
        self._pause_s = _FIRST_PAUSE_S
        # renewed at least at each interval; another process takes over soon after this one has died
        self._lease_s = 2 * settings.every_s + 10.0

    async def run(self, stop: Stop) -> None:
        """Read the mailbox at its interval; what fails is logged and tried again, after longer and longer pauses."""
        stopping = asyncio.create_task(stop.wait())
        working: asyncio.Task[None] | None = None
        try:
            while not stop.is_set():
                working = asyncio.create_task(self._turn())
                await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not working.done() and self._mailbox is not None:
                    self._mailbox.interrupt()
                pause_s = await self._settled(working, quiet=stop.is_set())
                await asyncio.wait({stopping}, timeout=pause_s)
        finally:
            stopping.cancel()
            if working is not None and not working.done():
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
            await self._leave()

    async def _settled(self, working: asyncio.Task[None], *, quiet: bool) -> float:
        """Wait for a turn and return the pause after it, in seconds; `quiet`: its failure is expected."""
        try:
            await working
        except (MailboxError, QueueFullError, QueueUnavailableError) as error:
            if not quiet:
                get_logger().warning("mailbox_not_read", mailbox=self._settings.name, reason=str(error))
            if isinstance(error, MailboxError):
                await self._disconnect()
            pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, _LONGEST_PAUSE_S)
            return pause_s
        self._pause_s = _FIRST_PAUSE_S
        return self._settings.every_s

    async def _turn(self) -> None:
        """Take all new mail, if this process has the lease."""
        if not await self._lease.hold(self._lease_s):
            await self._disconnect()
            return
        if self._mailbox is None:
            self._mailbox = await asyncio.to_thread(ImapMailbox, self._settings)
        mailbox = self._mailbox
        taken: list[str] = []
        while uids := await asyncio.to_thread(mailbox.new, _MOST_AT_ONCE):
            if uids[0] in taken:
                raise MailboxError("the server does not keep the mark of a mail that was taken")
            for uid in uids:
                await self._take(mailbox, uid)
            taken = uids
            if not await self._lease.hold(self._lease_s):
                return

    async def _take(self, mailbox: ImapMailbox, uid: str) -> None:
        raw = await asyncio.to_thread(mailbox.read, uid)
        if raw is not None:
            await self._inbox.add(SOURCE, raw)
            self._counted("imap", "taken")
        await asyncio.to_thread(mailbox.mark, uid)

    async def _disconnect(self) -> None:
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            await asyncio.to_thread(mailbox.close)

    async def _leave(self) -> None:
        """Disconnect, and let another process read at once."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._disconnect()
                await self._lease.release()
        except (QueueUnavailableError, TimeoutError):
            pass  # the lease ends by itself
