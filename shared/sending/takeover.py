"""Takes over from senders on this host that are gone, by the journals that they left.

The queue alone knows only that a job was begun, so a reaper must call each such job uncertain. The journal says more:

| the journal | what becomes of the job |
| --- | --- |
| has no note of it, or a refusal | it goes back untried, at no cost: the provider has not accepted it |
| has its acceptance | it is settled as sent |
| has it as taken | it is uncertain; of these there are at most two for each connection, one of them handed over |

A sender that is frozen or cut off still holds its lock. Once it is dead for the queue as well, its journal is read just
before a reaper takes over. That is safe: a sender whose lease has lapsed hands over none of its jobs, and the script
moves nothing of one that has its lease again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared.clock import Clock
from shared.errors import QueueUnavailableError
from shared.logs import get_logger
from shared.queue.batches import Numbered
from shared.queue.connection import translated
from shared.queue.consumer import BeginPolicy, Consumer
from shared.queue.leases import Lease, Move, given_back, sent
from shared.queue.reaper import Reaper
from shared.sending.journal import SUFFIX, UNNAMED, Left, LeftJournal
from shared.sending.outcomes import untouched

_KEPT_S = 24 * 3600.0
_MOST_AT_ONCE = 250
_UNTRIED = "its sender ended before it was handed over"


@dataclass(frozen=True, slots=True)
class _Place:
    """A partition in which a sender takes over, and the heads of what it settles there in place of others."""

    reaper: Reaper
    heads: Numbered

    async def knows(self, sender_id: str) -> bool:
        """Return whether the partition has such a sender."""
        partition = self.reaper.partition
        with translated("senders"):
            return bool(await partition.redis.hexists(partition.keys.key("senders"), sender_id))

    async def has_heartbeat(self, sender_id: str) -> bool:
        """Return whether the sender's heartbeat has not lapsed there."""
        partition = self.reaper.partition
        with translated("senders"):
            return bool(await partition.redis.exists(partition.keys.key(f"sender:{sender_id}")))


class Takeover:
    """Takes over, on behalf of the sender of some reapers, from the senders whose journals lie in a folder.

    There is a reaper for each partition that the sender works. A journal has the jobs of all of them, and the tag of
    the first one in its name.
    """

    def __init__(self, folder: Path, reapers: Sequence[Reaper], clock: Clock) -> None:
        self._folder = folder
        self._tag = reapers[0].partition.keys.tag
        self._places = [_Place(one, one.partition.numbered(one.sender_id, "take over")) for one in reapers]
        self._clock = clock
        self._reported: set[str] = set()
        self._applied: set[str] = set()
        for place in self._places:
            place.reaper.before_taking = partial(self._read_reaped, place)

    async def take_over(self) -> None:
        """Take over from each sender that has ended without leaving the queue.

        Raises QueueUnavailableError if a partition is away, once the others are done.
        """
        tag, away = self._tag, None
        for path in sorted([*self._folder.glob(f"*{tag}{SUFFIX}"), *self._folder.glob(f"*{tag}{UNNAMED}")]):
            try:
                with LeftJournal(path) as journal:
                    if path.suffix == UNNAMED and journal.age_s() < _KEPT_S:
                        continue  # its owner may be about to lock it, and would go without a journal
                    if journal.owner_is_gone() and await self._is_finished(journal):
                        journal.delete()
            except QueueUnavailableError as error:
                away = error
            except Exception as error:
                self._report(path, error)
        if away is not None:
            raise away

    def _report(self, path: Path, error: Exception) -> None:
        if path.name not in self._reported:
            self._reported.add(path.name)
            get_logger().warning("journal_unusable", file=path.name, reason=f"{type(error).__name__}: {error}")

    async def _is_finished(self, journal: LeftJournal) -> bool:
        """Take over by a journal whose owner is gone; return whether the file is of no further use.

        The last calls of the ended process may still arrive, so the file is kept until its heartbeat has lapsed too.
        """
        left = journal.read()
        if left is None:
            return journal.age_s() > _KEPT_S
        name = left.owner.sender_id
        known, moved, away = list[_Place](), 0, None
        for place in self._places:
            try:
                if await place.knows(name):
                    known.append(place)
                    moved += await self._apply(place, left, gone=True)
            except QueueUnavailableError as error:
                away = error
        if away is not None:
            raise away
        if not known:
            # a reaper has finished it, or it is of another system on this host
            return name in self._applied or journal.age_s() > _KEPT_S
        self._applied.add(name)
        return not moved and not any([await place.has_heartbeat(name) for place in known])

    async def _read_reaped(self, place: _Place, sender_id: str) -> None:
        """Apply the journal of a sender that is dead for a partition, if it is here; raises QueueUnavailableError."""
        path = self._folder / f"{sender_id}{self._tag}{SUFFIX}"
        try:
            with LeftJournal(path) as journal:
                left = journal.read()
                if left is not None:
                    await self._apply(place, left, gone=journal.owner_is_gone())
        except FileNotFoundError:
            return
        except QueueUnavailableError:
            raise
        except Exception as error:
            self._report(path, error)

    async def _apply(self, place: _Place, left: Left, *, gone: bool) -> int:
        """Settle in a partition what a journal decides; return how many jobs were moved, uncertain ones included."""
        name, reaper = left.owner.sender_id, place.reaper
        consumer = Consumer(reaper.partition, name, reaper.timing, BeginPolicy())
        in_flight = await consumer.load(await consumer.list_held("tx"))
        uncertain = [lease for lease in in_flight if lease.key in left.taken]
        moves = [self._move(lease, left) for lease in in_flight if lease.key not in left.taken]
        if gone:
            moves += [given_back(lease) for lease in await consumer.load(await consumer.list_held("buf"))]
        done = await _settle(consumer, moves, place.heads, frozen=not gone)
        if gone and uncertain:
            await reaper.give_up(uncertain, name)
        if moves or uncertain:
            get_logger().warning(
                "sender_taken_over",
                channel=reaper.partition.name,
                sender=name,
                given_back=sum(one.kind == "back" for one in done),
                sent=sum(one.kind == "sent" for one in done),
                uncertain=len(uncertain),
            )
        return len(moves) + len(uncertain)

    def _move(self, lease: Lease, left: Left) -> Move:
        event = left.accepted.get(lease.key)
        return untouched(lease, self._clock.now_ms(), _UNTRIED) if event is None else sent(lease, event)


async def _settle(consumer: Consumer, moves: Sequence[Move], heads: Numbered, *, frozen: bool) -> list[Move]:
    """Carry out moves in place of a sender; return those that were made."""
    done: list[Move] = []
    for first in range(0, len(moves), _MOST_AT_ONCE):
        some = moves[first : first + _MOST_AT_ONCE]
        made = await consumer.settle_in_place(some, heads, frozen=frozen)
        done += [move for move, moved in zip(some, made, strict=True) if moved]
    return done
