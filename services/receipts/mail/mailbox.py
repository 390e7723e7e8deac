"""Reads bounce mail from a mailbox: adds each mail to the stream, and marks it only once Redis has it.

If the process dies in between, the mail is read again; its receipts are then equal to the first ones and change
nothing. Of several processes the one with the lease reads.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Protocol

from services.receipts.mail.imap import ImapMailbox, MailboxError
from services.receipts.mail.intake import SOURCE, Counted, Inbox
from services.receipts.mail.settings import MailboxSettings
from shared.errors import QueueFullError, QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger

_MOST_AT_ONCE = 20
_FIRST_PAUSE_S = 1.0
# a server may lock an account after many failures, and Redis never does
_LONGEST_PAUSE_S, _LONGEST_WHEN_FULL_S, _LONGEST_WITHOUT_REDIS_S = 300.0, 30.0, 5.0
_CLOSE_S = 5.0
_LONGEST_LEASE_S = 60.0
# servers and firewalls end connections that are idle for minutes, which would look like a failure
_LONGEST_IDLE_S = 60.0
# a new connection tries again what could not be read on the last one
_LONGEST_CONNECTED_S = 3600.0


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
        self._connected_at = 0.0
        self._pause_s = _FIRST_PAUSE_S
        # another process takes over soon after this one has died, however long the interval is
        self._lease_s = min(2 * settings.every_s + 10.0, _LONGEST_LEASE_S)
        self._reads = False
        self._failing_since: float | None = None

    @property
    def failing_s(self) -> float:
        """Seconds since the first of the latest failures of the mail server, 0 while none has failed."""
        return time.monotonic() - self._failing_since if self._failing_since is not None else 0.0

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
                await self._rest(stopping, pause_s)
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
        except (QueueFullError, QueueUnavailableError) as error:
            longest_s = _LONGEST_WHEN_FULL_S if isinstance(error, QueueFullError) else _LONGEST_WITHOUT_REDIS_S
            quiet = quiet or self._pause_s > _FIRST_PAUSE_S
            reason = str(error)
        except MailboxError as error:
            longest_s, reason = _LONGEST_PAUSE_S, str(error)
            await self._failed()
        except Exception as error:  # the mailbox must not end the service, which also reads webhooks
            get_logger().exception("mailbox_failed", mailbox=self._settings.name)
            longest_s, reason = _LONGEST_PAUSE_S, f"an unexpected {type(error).__name__}"
            await self._failed()
        else:
            self._pause_s, self._failing_since = _FIRST_PAUSE_S, None
            return self._settings.every_s if self._reads else min(self._settings.every_s, self._lease_s)
        if not quiet:
            get_logger().warning("mailbox_not_read", mailbox=self._settings.name, reason=reason)
        pause_s = min(self._pause_s, longest_s)
        self._pause_s = min(pause_s * 2, longest_s)
        return pause_s

    async def _failed(self) -> None:
        """Note a failure of the mail server; the next turn connects again."""
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        self._reads = False
        await self._disconnect()

    async def _rest(self, stopping: asyncio.Task[None], pause_s: float) -> None:
        """Wait until the next turn or the stop, and keep the lease meanwhile."""
        until = time.monotonic() + pause_s
        while not stopping.done() and (left_s := until - time.monotonic()) > 0:
            renew_s = self._lease_s / 3
            await asyncio.wait({stopping}, timeout=min(left_s, renew_s))
            if self._reads and left_s > renew_s:
                with suppress(QueueUnavailableError):
                    self._reads = await self._lease.hold(self._lease_s)

    async def _turn(self) -> None:
        """Take all new mail, if this process has the lease."""
        self._reads = await self._lease.hold(self._lease_s)
        if not self._reads:
            await self._disconnect()
            return
        mailbox = await self._connected()
        taken: list[str] = []
        while uids := await asyncio.to_thread(mailbox.new, _MOST_AT_ONCE):
            if uids[0] in taken:
                raise MailboxError("the server does not keep the mark of a mail that was taken")
            for uid in uids:
                await self._take(mailbox, uid)
            taken = uids
            self._reads = await self._lease.hold(self._lease_s)
            if not self._reads:
                return
        if self._settings.every_s > _LONGEST_IDLE_S:
            await self._disconnect()

    async def _connected(self) -> ImapMailbox:
        if self._mailbox is not None and time.monotonic() - self._connected_at > _LONGEST_CONNECTED_S:
            await self._disconnect()
        if self._mailbox is None:
            self._mailbox = await asyncio.to_thread(ImapMailbox, self._settings)
            self._connected_at = time.monotonic()
        return self._mailbox

    async def _take(self, mailbox: ImapMailbox, uid: str) -> None:
        raw = await asyncio.to_thread(mailbox.read, uid)
        if raw is None:
            # not marked, since it was not read
            get_logger().warning("mail_not_read", mailbox=self._settings.name, uid=uid)
            return
        await self._inbox.add(SOURCE, raw)
        self._counted("imap", "taken")
        await asyncio.to_thread(mailbox.mark, uid)

    async def _disconnect(self) -> None:
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            try:
                await asyncio.to_thread(mailbox.close)
            except asyncio.CancelledError:
                mailbox.interrupt()  # its thread would delay the end of the process
                raise

    async def _leave(self) -> None:
        """Disconnect, and let another process read at once."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._disconnect()
                await self._lease.release()
        except (QueueUnavailableError, TimeoutError):
            pass  # the lease ends by itself
