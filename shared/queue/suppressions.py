"""Addresses that must not be sent to, with the reason: hard bounces stop all mail, the rest marketing alone.

They are stored and found by their identity, so an address is suppressed in every spelling.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from shared.addresses import identity
from shared.queue.connection import translated
from shared.queue.keys import ChannelKeys
from shared.queue.scripts import call_script

_PAGE = 1000


class Suppressions:
    """The suppressed addresses of each channel, in `C:suppressed`; `begin` reads them.

    Every method takes an address in any spelling.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, channel: str, address: str, reason: str) -> bool:
        """Suppress an address; the first reason stays unless the new one is a hard bounce. True if it was new."""
        return bool(await call_script(self._redis, "suppress", ChannelKeys(channel).tag, (identity(address), reason)))

    async def remove(self, channel: str, address: str) -> bool:
        """Lift a suppression; False if there was none."""
        with translated("unsuppress"):
            # as it is spelled too: it may have been listed before `unify` moved it
            return bool(await self._redis.hdel(ChannelKeys(channel).key("suppressed"), identity(address), address))

    async def get(self, channel: str, address: str) -> str | None:
        """Return why an address is suppressed, None if it is not."""
        with translated("suppression"):
            value: Any = await self._redis.hget(ChannelKeys(channel).key("suppressed"), identity(address))
        return value.decode() if value is not None else None

    async def page(self, channel: str, cursor: str, limit: int) -> tuple[list[tuple[str, str]], str]:
        """Return about `limit` suppressions from `cursor` ("0" to start) and the next cursor ("0" at the end)."""
        key = ChannelKeys(channel).key("suppressed")
        with translated("suppressions"):
            reply: Any = await self._redis.hscan(key, int(cursor or 0), count=limit)
        next_cursor, rows = reply
        return [(address.decode(), reason.decode()) for address, reason in rows.items()], str(next_cursor)

    async def unify(self, channel: str, *, repair: bool = True) -> int:
        """Store suppressions of earlier versions under their identity; return how many were stored otherwise.

        Earlier versions stored the spelling that was sent to. Reads all suppressions; safe to repeat at any time.
        Without `repair` it only counts.
        """
        found, cursor = 0, "0"
        while True:
            rows, cursor = await self.page(channel, cursor, _PAGE)
            spelled = [(address, own) for address, _ in rows if (own := identity(address)) != address]
            found += len(spelled)
            if spelled and repair:
                pairs = [word for pair in spelled for word in pair]
                await call_script(self._redis, "unify_suppressed", ChannelKeys(channel).tag, pairs)
            if cursor == "0":
                return found
