"""The lease of a mailbox for bounces: of several receipts services, one reads it.

Two that read it at once do no harm, because a mail that enters twice gives equal receipts; the lease saves the work.
"""

from __future__ import annotations

import hashlib

from redis.asyncio import Redis

from shared.queue.scripts import load_script

# the hash tag of the stream that the mail goes to
_PREFIX = "{receipts}:mailbox:"


class MailboxLease:
    """One process's claim to a mailbox; `mailbox` names it without its password, `holder` is unique to the process."""

    def __init__(self, redis: Redis, mailbox: str, holder: str) -> None:
        self._redis = redis
        self._key = _PREFIX + hashlib.sha256(mailbox.encode()).hexdigest()[:16]
        self._holder = holder

    async def hold(self, for_s: float) -> bool:
        """Take or renew the lease; return whether this process has it. Raises QueueUnavailableError."""
        args = (self._holder, max(1, int(for_s * 1000)))
        return bool(await load_script("hold_mailbox").call(self._redis, (self._key,), args))

    async def release(self) -> None:
        """Give the lease up, so that another process need not wait for its end; raises QueueUnavailableError."""
        await load_script("hold_mailbox").call(self._redis, (self._key,), (self._holder, 0))
