"""The suppressed addresses of each channel, in `C:suppressed`; `begin` reads them before each send.

Each partition of a channel has all suppressions: they are written to every partition and read from the first.

Addresses are stored and found by their identity, so an address is suppressed in every spelling. An expired suppression
has no effect and is not listed; it is deleted when its address is written next, or when a sender starts.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast
from zlib import crc32

from redis.asyncio import Redis

from shared.addresses import identity
from shared.clock import Clock, SystemClock
from shared.queue.batches import Numbered, boot_name
from shared.queue.connection import translated
from shared.queue.partitions import Partition, first_partition, in_each, partitions
from shared.queue.scripts import Argument
from shared.suppressions import Scope, Suppression, pack_suppression, unpack_suppressions

_SCANNED_AT_ONCE = 1000
# no suppression has this scope: lifting it only deletes expired ones
_EXPIRED = "expired"
# a search reads this many addresses per page, so that a page takes at most about a tenth of a second
SEARCHED_A_PAGE = 50_000

Stored = Literal["new", "changed", "kept"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A suppression and the address that has it, as it is stored."""

    address: str
    suppression: Suppression

    @property
    def mark(self) -> int:
        """The 32 bits that identify it in a `Place`."""
        return crc32(f"{self.address} {self.suppression.scope}".encode())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: Redis's cursor, and the marks of those returned from the scan that begins there.

    Redis returns a small table whole, whatever count was requested.
    """

    cursor: int = 0
    given: tuple[int, ...] = ()


Matches = Callable[[Listed], bool]


def _every(_one: Listed) -> bool:
    return True


class Suppressions:
    """Reads and changes suppressions; every method takes an address in any spelling."""

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        self._redis = redis
        self._clock = clock or SystemClock()
        self._added = Numbered(boot_name("suppressions", socket.gethostname()), "added")

    async def add(self, channel: str, address: str, suppression: Suppression) -> Stored:
        """Suppress an address: of two suppressions of one scope the longer one stays, of equals the first.

        An opt-out gives way to an equal one of another source, which an opt-in does not lift.
        """
        return (await self.add_all(channel, [(address, suppression)]))[0]

    async def add_all(self, channel: str, every: Sequence[tuple[str, Suppression]]) -> list[Stored]:
        """Suppress addresses in one step, each like `add`; a few hundred per call, because a call blocks Redis.

        The first partition emits one `SuppressionsAdded` for those that were new or changed.
        """
        _, head = self._added.next()
        args: list[Argument] = [head]
        for address, suppression in every:
            args += [identity(address), pack_suppression(suppression)]
        first, *_ = every_partition = partitions(self._redis, channel)
        words: list[bytes] = await in_each(
            every_partition, lambda one: one.call("suppress", args if one == first else [b"", *args[1:]])
        )
        return cast("list[Stored]", words[0].decode().split(","))

    async def remove(self, channel: str, address: str, scope: Scope | Literal[""] = "") -> int:
        """Lift an address's suppression of a scope, "" for every; return how many were lifted."""
        # the spelling too: it may have been listed before `rekey` moved it
        spellings = dict.fromkeys((identity(address), address))
        return await self._lift(channel, [(one, scope) for one in spellings])

    async def remove_all(self, channel: str, every: Sequence[Listed]) -> int:
        """Lift listed suppressions in one step; return how many of them still existed."""
        return await self._lift(channel, [(one.address, one.suppression.scope) for one in every])

    async def opt_in(self, channel: str, address: str, at_ms: int) -> int:
        """Lift an address's opt-out of before `at_ms`, and nothing else; return 1 if it had one."""
        call: tuple[Argument, ...] = (identity(address), "marketing", "opt_out", at_ms)
        lifted = await in_each(partitions(self._redis, channel), lambda one: one.call("unsuppress", call))
        return int(lifted[0])

    async def _lift(self, channel: str, pairs: Sequence[tuple[str, str]]) -> int:
        return (await in_each(partitions(self._redis, channel), lambda one: _lift(one, pairs)))[0]

    async def get(self, channel: str, address: str) -> list[Suppression]:
        """Return an address's suppressions that have not expired, at most one of each scope."""
        key, now_ms = first_partition(self._redis, channel).keys.key("suppressed"), self._clock.now_ms()
        with translated("suppression"):
            # the spelling too: no sender may have started after the upgrade, which moves it
            values: Any = await self._redis.hmget(key, list(dict.fromkeys((identity(address), address))))
        found = [one for value in values if value is not None for one in unpack_suppressions(value)]
        by_scope = {one.scope: one for one in reversed(found) if one.holds_at(now_ms)}
        return [by_scope[scope] for scope in sorted(by_scope)]

    async def page(
        self, channel: str, limit: int, place: Place = Place(), matches: Matches = _every
    ) -> tuple[list[Listed], Place | None]:
        """Return at most `limit` suppressions that match, and where the next page begins, None at the end.

        A search ends its page after SEARCHED_A_PAGE addresses. Every suppression that exists throughout is returned; it
        may be returned twice if the table grows or shrinks between two pages. Those added or lifted meanwhile may be
        missed.
        """
        rows: list[Listed] = []
        cursor, given, searched = place.cursor, set(place.given), 0
        fewest = max(1, limit // 2)
        count = fewest if matches is _every else _SCANNED_AT_ONCE
        while True:
            following, addresses, look = await self._scan_page(channel, cursor, count)
            look = [one for one in look if one.mark not in given and matches(one)]
            if len(look) > limit - len(rows):
                if rows:
                    return rows, Place(cursor)
                if count > fewest:
                    count = fewest
                    continue
                return look[:limit], Place(cursor, (*given, *(one.mark for one in look[:limit])))
            rows, searched, given = rows + look, searched + addresses, set()
            if not following:
                return rows, None
            cursor = following
            if len(rows) >= limit or searched >= SEARCHED_A_PAGE:
                return rows, Place(cursor)

    async def every(self, channel: str, matches: Matches = _every) -> AsyncIterator[list[Listed]]:
        """Yield all suppressions that match, one block in memory at a time."""
        cursor = 0
        while True:
            cursor, _, look = await self._scan_page(channel, cursor, _SCANNED_AT_ONCE)
            if found := [one for one in look if matches(one)]:
                yield found
            if not cursor:
                return

    async def _scan_page(self, channel: str, cursor: int, count: int) -> tuple[int, int, list[Listed]]:
        """Return the next cursor, the number of addresses read, and their suppressions that are in force."""
        following, rows = await _scan(first_partition(self._redis, channel), cursor, count)
        now_ms = self._clock.now_ms()
        found = [Listed(address, one) for address, every in rows.items() for one in every if one.holds_at(now_ms)]
        return following, len(rows), found

    async def rekey(self, partition: Partition, *, repair: bool = True) -> int:
        """Move suppressions of earlier versions to the identity of their address; return how many were not there.

        Earlier versions stored the address as it was written. Expired suppressions are deleted. Reads all suppressions;
        safe to repeat at any time. Without `repair` it only counts.
        """
        found, cursor = 0, 0
        while True:
            cursor, rows = await _scan(partition, cursor, _SCANNED_AT_ONCE)
            spelled = [(address, own) for address in rows if (own := identity(address)) != address]
            found += len(spelled)
            if repair:
                await self._tidy(partition, rows, spelled)
            if not cursor:
                return found

    async def _tidy(
        self, partition: Partition, rows: dict[str, list[Suppression]], spelled: Sequence[tuple[str, str]]
    ) -> None:
        """Move suppressions stored under a spelling, and delete expired ones."""
        now_ms = self._clock.now_ms()
        if spelled:
            await partition.call("rekey_suppressions", [word for pair in spelled for word in pair])
        over = [address for address, every in rows.items() if not all(one.holds_at(now_ms) for one in every)]
        if over:
            await _lift(partition, [(address, _EXPIRED) for address in over])


async def _scan(partition: Partition, cursor: int, count: int) -> tuple[int, dict[str, list[Suppression]]]:
    with translated("suppressions"):
        reply: Any = await partition.redis.hscan(partition.keys.key("suppressed"), cursor, count=count)
    following, rows = reply
    return int(following), {
        address.decode("utf-8", "replace"): unpack_suppressions(raw) for address, raw in rows.items()
    }


async def _lift(partition: Partition, pairs: Sequence[tuple[str, str]]) -> int:
    return int(await partition.call("unsuppress", [word for pair in pairs for word in (*pair, "", 0)]))
