"""Planning: which events an endpoint gets next, cut into deliveries.

`propose` reads on a reader's connection: after the endpoint's cursor, then the events of its replays, as long as there
is room in its window. `adopt` writes what was proposed, the deliveries and the cursor in one transaction, unless the
endpoint changed in between. Bodies are made once, while planning, because the size of a batch is bounded; those of
deliveries that were written by an earlier process are made again from their events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec
import orjson

from services.logger.database import Database
from services.logger.webhooks.bodies import (
    BATCH,
    COLUMNS,
    Facts,
    Journaled,
    batch_id,
    batch_of,
    item_of,
    read_facts,
    single_of,
)
from services.logger.webhooks.endpoints import Row
from services.logger.webhooks.journal import first_id, last_id, subscribes
from shared.queue.webhook_queues import Outgoing
from shared.webhooks import ALL_EVENTS, EVENT_TYPES, Batch, EndpointConfig

WINDOW, WINDOW_BYTES = 1000, 1024 * 1024
"""The most deliveries of an endpoint, and the most bytes of their bodies (and a batch), that wait in Redis.

A hundred endpoints that are away leave three quarters of the 512 MB that Redis has by default to messages.
"""
BATCH_BYTES = 256 * 1024
# how long an event waits for its blast to be in the log, which may read the blast's stream later than the messages'
AWAIT_BLAST_MS = 5 * 60_000
_LOOK_AGAIN_MS = 500
# rows of the journal that one step reads, and that it passes over
READ, PASSED = 500, 20_000

NEXT = f"""
SELECT {COLUMNS} FROM webhook_events
WHERE id > ?1 AND id <= ?2 AND type IN (SELECT value FROM json_each(?3)) ORDER BY id LIMIT ?4
"""  # noqa: S608 -- this code's own names
USED = """
SELECT count(*), coalesce(sum(bytes), 0) FROM webhook_deliveries INDEXED BY idx_webhook_open
WHERE number = ? AND status IN ('waiting', 'retrying')
"""
REPLAYS = """
SELECT id, next_event, last_event FROM webhook_replays INDEXED BY idx_webhook_replays
WHERE number = ? ORDER BY id LIMIT 1
"""
_INSERT = """
INSERT INTO webhook_deliveries (number, n, webhook_id, type, events, count, bytes, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADVANCE = "UPDATE webhook_endpoints SET cursor = ?, next_n = ? WHERE number = ?"
_NOW = "SELECT config, enabled, cursor, next_n FROM webhook_endpoints WHERE number = ? AND NOT deleted"
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[int]).decode


class _Cut(NamedTuple):
    """The events of one delivery, its `webhook-id` and its body."""

    events: list[Journaled]
    webhook_id: str
    body: str


@dataclass(slots=True)
class Proposal:
    """What an endpoint gets next; `due_in_ms` is when an incomplete batch is due, None without one."""

    row: Row
    cursor: int
    cuts: list[_Cut] = field(default_factory=list)
    replay: int = 0
    replayed: int = 0
    replay_ends: bool = False
    due_in_ms: int | None = None
    more: bool = False

    def is_worth_writing(self) -> bool:
        """Return whether adopting it changes more than a few rows of the cursor."""
        return bool(self.cuts) or bool(self.replay) or self.cursor - self.row.cursor >= PASSED // 2


@dataclass(slots=True)
class _Room:
    """What is left of an endpoint's window."""

    deliveries: int
    size: int

    def take(self, cuts: Iterable[_Cut]) -> None:
        for cut in cuts:
            self.deliveries -= 1
            self.size -= len(cut.body)

    def __bool__(self) -> bool:
        return self.deliveries > 0 and self.size > 0


def propose(connection: Database, row: Row, now_ms: int, *, recipients: bool, seen: int = 0) -> Proposal:
    """Return what an enabled endpoint gets next; `seen` is up to where the journal is known to have nothing for it."""
    last = last_id(connection)
    # retention may have deleted what follows the cursor
    start = max(row.cursor, seen, first_id(connection) - 1)
    proposal = Proposal(row, start)
    replay = connection.execute(REPLAYS, (row.number,)).fetchone()
    if replay is None:
        proposal.due_in_ms = _gathers(connection, row.config, range(start, last), now_ms)
        if start == last or proposal.due_in_ms is not None:
            return proposal
    used, used_bytes = connection.execute(USED, (row.number,)).fetchone()
    room = _Room(WINDOW - used, WINDOW_BYTES - used_bytes)
    if not room:
        return proposal
    reading = _Reading(connection, row.endpoint_id, row.config, recipients, room, now_ms)
    live = reading.read(start, min(last, start + PASSED), ends=last > start + PASSED)
    proposal.cursor, proposal.cuts, proposal.due_in_ms = live.cursor, live.cuts, live.due_in_ms
    proposal.more = live.cursor < last and live.due_in_ms is None and not live.held
    if live.held:
        proposal.due_in_ms = min(_LOOK_AGAIN_MS, proposal.due_in_ms or _LOOK_AGAIN_MS)
    if not proposal.more and room and replay:
        _replay(proposal, reading, *replay)
    return proposal


def _gathers(connection: Database, config: EndpointConfig, span: range, now_ms: int) -> int | None:
    """Return in how many ms a batch is due that too few events follow to complete it, None if it may go out now.

    It is not read before: a fast stream of events would otherwise be read several times.
    """
    if config.batch is None or len(span) >= config.batch.max:
        return None
    values = (span.start, span.stop, _types_of(config), 1)
    first = connection.execute(NEXT, values).fetchone()
    return _left_ms(config.batch, Journaled._make(first), now_ms) if first else None


def _left_ms(batch: Batch, first: Journaled, now_ms: int) -> int | None:
    """Return for how many ms more a batch may wait for events, None if it may not."""
    left_ms = first.kept_at_ms + batch.within_ms - now_ms
    # more than the whole time is left where the clock was set back
    return left_ms if 0 < left_ms <= batch.within_ms else None


def _types_of(config: EndpointConfig) -> str:
    return orjson.dumps(EVENT_TYPES if ALL_EVENTS in config.events else config.events).decode()


def _replay(proposal: Proposal, reading: _Reading, replay: int, next_event: int, last_event: int) -> None:
    until = min(last_event, next_event - 1 + PASSED)
    again = replace(reading, now_ms=0).read(next_event - 1, until, ends=True)
    proposal.replay, proposal.replayed = replay, again.cursor
    proposal.replay_ends = again.cursor >= last_event
    proposal.cuts += again.cuts
    proposal.more = True


class _Read(NamedTuple):
    """What was read, up to `cursor`; `held`: the next event waits for its blast."""

    cursor: int
    cuts: list[_Cut]
    due_in_ms: int | None
    held: bool


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads events that an endpoint subscribes to, and cuts them into deliveries that fit its window.

    An incomplete batch waits until `now_ms`, 0 for a replay, which does not wait.
    """

    connection: Database
    endpoint_id: str
    config: EndpointConfig
    recipients: bool
    room: _Room
    now_ms: int

    def read(self, after: int, until: int, *, ends: bool) -> _Read:
        """Read from the journal after an id, up to another.

        `ends`: what is left over for a batch is not kept waiting for more, because the range ends here.
        """
        limit = READ if self.config.batch else min(READ, self.room.deliveries)
        values = (after, until, _types_of(self.config), limit)
        events = [Journaled._make(row) for row in self.connection.execute(NEXT, values)]
        cursor = until if len(events) < limit else events[-1].event
        facts = read_facts(self.connection, events, recipients=self.recipients)
        held = next((n for n, event in enumerate(events) if self._is_early(event, facts)), None)
        if held is not None:
            cursor = until = events[held].event - 1
        cuts = list(self._cut(self._mine(events[:held], facts), facts))
        due_in_ms = self._due_in_ms(cuts, is_last=cursor == until, ends=ends)
        if due_in_ms is not None:
            cursor = cuts.pop().events[0].event - 1
        fitting = self._fitting(cuts)
        if len(fitting) < len(cuts):
            cursor, due_in_ms = cuts[len(fitting)].events[0].event - 1, None
        return _Read(cursor, fitting, due_in_ms or None, held is not None and len(fitting) == len(cuts))

    def _is_early(self, event: Journaled, facts: Facts) -> bool:
        return facts.lacks_blast(event) and 0 <= self.now_ms - event.kept_at_ms < AWAIT_BLAST_MS

    def _mine(self, events: Iterable[Journaled], facts: Facts) -> list[Journaled]:
        """Return the events that the endpoint subscribes to; with an unknown blast rather too many than too few."""
        wanted = self.config.reference
        return [
            event
            for event in events
            if event.subject != self.endpoint_id  # another endpoint's end is news, its own is not
            and subscribes(
                self.config,
                event.type,
                event.channel,
                () if not wanted else (wanted,) if facts.lacks_blast(event) else facts.references(event),
            )
        ]

    def _due_in_ms(self, cuts: Sequence[_Cut], *, is_last: bool, ends: bool) -> int | None:
        """Return in how many ms the last batch is due, 0 if the next step completes it; None if it goes out now."""
        batch = self.config.batch
        if not cuts or batch is None or len(cuts[-1].events) >= batch.max:
            return None
        if not is_last:
            return 0 if len(cuts) > 1 else None
        return None if ends else _left_ms(batch, cuts[-1].events[0], self.now_ms)

    def _fitting(self, cuts: Sequence[_Cut]) -> list[_Cut]:
        """Return the first cuts that fit into the window; one that is too large for it fits an empty one."""
        fitting = []
        for cut in cuts:
            if not self.room:
                break
            self.room.take([cut])
            fitting.append(cut)
        return fitting

    def _cut(self, events: Sequence[Journaled], facts: Facts) -> Iterator[_Cut]:
        if self.config.batch is None:
            for event in events:
                yield _Cut([event], event.id, single_of(event, facts))
            return
        group: list[Journaled] = []
        ids: list[str] = []
        items: list[bytes] = []
        size = 0
        for event in events:
            own, item = item_of(event, facts)
            if group and (len(group) == self.config.batch.max or size + len(item) > BATCH_BYTES - _FRAME_BYTES):
                yield self._batch(group, ids, items)
                group, ids, items, size = [], [], [], 0
            group.append(event)
            ids.append(own)
            items.append(item)
            size += len(item) + 1
        if group:
            yield self._batch(group, ids, items)

    def _batch(self, events: list[Journaled], ids: Sequence[str], items: Sequence[bytes]) -> _Cut:
        return _Cut(events, batch_id(self.endpoint_id, ids), batch_of(items, events[-1].kept_at_ms))


# what a batch has around its items
_FRAME_BYTES = 128


def adopt(connection: Database, proposal: Proposal, now_ms: int) -> list[Outgoing]:
    """Write a proposal within a transaction; return its deliveries, none if the endpoint changed since."""
    row = proposal.row
    found = connection.execute(_NOW, (row.number,)).fetchone()
    if found != (row.config_text, 1, row.cursor, row.next_n):
        return []
    deliveries = [Outgoing(n, cut.webhook_id, cut.body) for n, cut in enumerate(proposal.cuts, start=row.next_n)]
    connection.executemany(
        _INSERT,
        (
            (row.number, one.n, one.webhook_id, _type_of(row, cut), pack_events(cut.events), len(cut.events),
             len(one.body.encode()), now_ms)
            for one, cut in zip(deliveries, proposal.cuts, strict=True)
        ),
    )  # fmt: skip
    connection.execute(_ADVANCE, (proposal.cursor, row.next_n + len(deliveries), row.number))
    if proposal.replay_ends:
        connection.execute("DELETE FROM webhook_replays WHERE id = ?", (proposal.replay,))
    elif proposal.replay:
        values = (proposal.replayed + 1, proposal.replay)
        connection.execute("UPDATE webhook_replays SET next_event = ? WHERE id = ?", values)
    return deliveries


def _type_of(row: Row, cut: _Cut) -> str:
    return BATCH if row.config.batch else cut.events[0].type


def pack_events(events: Sequence[Journaled]) -> bytes:
    """Pack the ids of a delivery's events, which rise, as the first and the differences."""
    ids = [event.event for event in events]
    return _pack([ids[0], *(b - a for a, b in pairwise(ids))])


def unpack_events(packed: bytes) -> list[int]:
    """Return the ids that `pack_events` packed."""
    return list(accumulate(_unpack(packed)))
