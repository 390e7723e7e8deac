"""The journal: the events that a client can subscribe to, written in the transaction that applies what they report.

A row follows from a change of a row, not from an event of the queue, so each is written once whatever order the queue's
events come in and however often: a message that reaches a terminal status in its run, a blast that ends, becomes
incomplete or is paused, a new receipt. A message of which a late answer says that it was sent after all was reported as
`message.failed` before; `message.sent` of the same run follows, and is final.

Only types that an endpoint subscribes to are written, and only for its channels. What a row of the log has as well is
added later (`bodies`), since this is on the path of every event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import orjson

from services.logger.blast_rows import ENDED_STATES, Settled
from services.logger.database import Database
from services.logger.folding import JobChange
from shared.events import ChannelChanged, SuppressionsAdded
from shared.receipts import Receipt
from shared.webhooks import ALL_EVENTS, EVENT_TYPES, WEBHOOK_TEST, EndpointConfig, matches

_INSERT = """
INSERT INTO webhook_events (type, subject, mark, channel, at_ms, kept_at_ms, data) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_LAST = "SELECT kept_at_ms FROM webhook_events WHERE id > 0 ORDER BY id DESC LIMIT 1"
# two statements: one with both would read the whole table
FIRST = "SELECT coalesce(min(id), 1) FROM webhook_events"
LAST = "SELECT coalesce(max(id), 0) FROM webhook_events"
_CONFIGS = "SELECT config FROM webhook_endpoints WHERE NOT deleted"
COUNT = """
INSERT INTO webhook_totals (name, n) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = webhook_totals.n + excluded.n
"""
# opt-outs and opt-ins change suppressions, which have an event of their own
_RECEIPTS = frozenset({"delivered", "read", "bounced", "undelivered", "complained"})
# what was journaled while the clock was ahead: the latest rows, of which the first has a right time before it
_AHEAD = """
UPDATE webhook_events SET kept_at_ms = ?1 WHERE id > coalesce(
    (SELECT id FROM webhook_events WHERE id > 0 AND kept_at_ms <= ?1 ORDER BY id DESC LIMIT 1), 0)
"""
_TO_FILTER = frozenset({WEBHOOK_TEST})
_SET_BACK_MS = 3_600_000

decode_config = msgspec.json.Decoder(EndpointConfig).decode


class NewReceipt(NamedTuple):
    """A receipt that became a row."""

    job_id: str
    run: int
    at_ms: int
    source: str
    receipt: Receipt


class Entry(NamedTuple):
    """A row to write; (`type`, `subject`, `mark`) is the same whenever the event is written again."""

    type: str
    subject: str
    mark: str
    channel: str
    at_ms: int
    data: dict[str, Any]


@dataclass(slots=True)
class Happened:
    """What a batch changed: messages that ended with their attempts, blasts, new receipts, and what the queue says."""

    messages: list[tuple[JobChange, int]] = field(default_factory=list)
    blasts: list[Settled] = field(default_factory=list)
    receipts: Iterable[NewReceipt] = ()
    notices: list[ChannelChanged | SuppressionsAdded] = field(default_factory=list)


class Wanted:
    """The types that any endpoint subscribes to, and the channels for each; None is every channel."""

    def __init__(self, configs: Iterable[EndpointConfig]) -> None:
        self._channels: dict[str, frozenset[str] | None] = {}
        for config in configs:
            for name in EVENT_TYPES if ALL_EVENTS in config.events else config.events:
                known = self._channels.get(name, frozenset())
                every = known is None or not config.channels
                self._channels[name] = None if every else (known or frozenset()) | {*config.channels}

    def __bool__(self) -> bool:
        """Return whether anything is wanted."""
        return bool(self._channels)

    def __call__(self, event_type: str, channel: str) -> bool:
        """Return whether an event is wanted; `channel` is "" if it has none."""
        channels = self._channels.get(event_type, frozenset())
        return channels is None or (bool(channels) and (not channel or channel in channels))


def read_wanted(connection: Database) -> Wanted:
    """Return what the endpoints subscribe to, disabled ones too: they get it when they are enabled again."""
    return _wanted(tuple(row[0] for row in connection.execute(_CONFIGS)))


@lru_cache(8)
def _wanted(configs: tuple[str, ...]) -> Wanted:
    return Wanted(map(decode_config, configs))


def write_journal(connection: Database, happened: Happened, now_ms: int) -> int:
    """Write the rows that follow from a batch; return their number."""
    wanted = read_wanted(connection)
    if not wanted:
        return 0
    return write_entries(connection, list(_entries(happened, wanted)), now_ms)


def write_entries(connection: Database, entries: Sequence[Entry], now_ms: int) -> int:
    """Write rows; return their number. Their time of writing never falls with rising ids, if the clock is set back.

    A clock that was more than an hour ahead was wrong: what was written meanwhile is taken for written now, so that
    retention and replays find it.
    """
    if not entries:
        return 0
    last = connection.execute(_LAST).fetchone()
    kept_at_ms = now_ms
    if last and last[0] > now_ms + _SET_BACK_MS:
        connection.execute(_AHEAD, (now_ms,))
    elif last:
        kept_at_ms = max(last[0], now_ms)
    connection.executemany(
        _INSERT,
        ((type_, subject, mark, channel, at_ms, kept_at_ms, orjson.dumps(data).decode())
         for type_, subject, mark, channel, at_ms, data in entries),
    )  # fmt: skip
    connection.execute(COUNT, ("events", len(entries)))
    return len(entries)


def first_id(connection: Database) -> int:
    """Return the id of the earliest event of the journal, 1 if it has none."""
    return int(connection.execute(FIRST).fetchone()[0])


def last_id(connection: Database) -> int:
    """Return the id of the latest event of the journal, 0 if it has none."""
    return int(connection.execute(LAST).fetchone()[0])


def subscribes(config: EndpointConfig, event_type: str, channel: str, references: Sequence[str]) -> bool:
    """Return whether an endpoint gets an event from the journal: a test goes to its own endpoint alone."""
    return event_type not in _TO_FILTER and matches(config, event_type, channel, references)


def _entries(happened: Happened, wanted: Wanted) -> Iterator[Entry]:
    yield from _of_messages(happened.messages, wanted)
    yield from _of_receipts(happened.receipts, wanted)
    yield from _of_blasts(happened.blasts, wanted)
    for notice in happened.notices:
        if isinstance(notice, ChannelChanged):
            name = f"channel.{notice.change}"
            if wanted(name, notice.channel):
                data = {"reason": notice.reason} if notice.reason else {}
                yield Entry(name, notice.channel, str(notice.at_ms), notice.channel, notice.at_ms, data)
        elif wanted("suppression.added", notice.channel):
            yield from _of_suppressions(notice)


def _of_messages(messages: Iterable[tuple[JobChange, int]], wanted: Wanted) -> Iterator[Entry]:
    """Yield the ends of messages: the hot path, of one row for each message."""
    names: dict[tuple[str, str], str] = {}
    for change, attempts in messages:
        channel = change.job_id.rpartition(":")[2]
        name = names.get((change.status, channel))
        if name is None:
            name = f"message.{change.status}"
            name = names[change.status, channel] = name if wanted(name, channel) else ""
        if not name:
            continue
        data: dict[str, Any] = {"run": change.run, "attempts": attempts}
        if change.status == "sent":
            if change.message_id:
                data["messageId"] = change.message_id
        else:
            data["error"] = [change.error_class or "", change.error_code or "", change.error_message or ""]
        yield Entry(name, change.job_id, str(change.run), channel, change.at_ms, data)


def _of_receipts(receipts: Iterable[NewReceipt], wanted: Wanted) -> Iterator[Entry]:
    for one in receipts:
        channel, name = one.job_id.rpartition(":")[2], f"message.{one.receipt.kind}"
        if one.receipt.kind not in _RECEIPTS or not wanted(name, channel):
            continue
        receipt = one.receipt
        data: dict[str, Any] = {"run": one.run, "provider": one.source, "trusted": receipt.trusted}
        texts = {"severity": receipt.severity, "code": receipt.code, "message": receipt.words}
        data |= {key: text for key, text in texts.items() if text}
        yield Entry(name, one.job_id, f"{one.at_ms} {one.source}", channel, one.at_ms, data)


def _of_blasts(blasts: Iterable[Settled], wanted: Wanted) -> Iterator[Entry]:
    """Yield the ends and pauses of blasts; a client that cancels one knows that it ended."""
    for one in blasts:
        if one.ended and one.state != "cancelled":
            name, at_ms = "blast.incomplete" if one.state == "incomplete" else "blast.completed", one.ended_at_ms
        elif one.state == "paused":
            name, at_ms = "blast.paused", one.paused_at_ms
        else:
            continue
        if not wanted(name, ""):
            continue
        data: dict[str, Any] = {"state": one.state, "channels": one.counts}
        if one.state not in ENDED_STATES and one.pause_reason:
            data["reason"] = one.pause_reason
        yield Entry(name, one.blast_id, str(at_ms), "", at_ms, data)


def _of_suppressions(notice: SuppressionsAdded) -> Iterator[Entry]:
    for one in notice.items:
        data = {"scope": one.scope, "source": one.source, "reason": one.reason, "address": one.address}
        mark = f"{notice.at_ms} {one.scope} {one.address}"
        yield Entry("suppression.added", one.job_id, mark, notice.channel, notice.at_ms, data)
