"""Writing: turns a batch of event entries into rows, in the same transaction that records the entries as applied.

Each entry carries its producer and sequence number, so an entry that is delivered again changes nothing. Statements are
few and prepared, since the whole pipeline shares the machine with the senders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from services.logger.blast_rows import settle_states, write_blasts
from services.logger.database import Database
from services.logger.early_receipts import Incoming, wake_early
from services.logger.folding import Folded, JobChange, fold
from services.logger.merging import RETRIED, Tally, merge
from services.logger.receipts import Delays, apply_receipts, incoming_of
from services.logger.sqlite_rows import rows_of
from services.logger.sweeping import changes_of, end_ranges, job_ids_of
from services.logger.webhooks.journal import Happened, read_wanted, write_journal
from services.logger.webhooks.results import FAILS_FOR_MS, Report, apply_reports, note_reported
from shared.channels import WEBHOOK
from shared.clock import Clock, SystemClock, rfc3339
from shared.errors import DecodeError
from shared.events import Event, Receipts, pack_batch
from shared.jobs import TERMINAL
from shared.queue.event_log import EventEntry

_UNDECODABLE = """
INSERT INTO undecodable_events (stream, entry_id, error, raw, created_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""


@dataclass(slots=True)
class Written:
    """What a batch of events ended, the number of jobs by blast and the blasts, and what its receipts brought.

    `ended_alone` are those of the blasts that had all jobs in one partition.
    `delays` are those of its new receipts by channel and kind, in seconds, `suppressions` the changes that it added to
    the outbox. `webhooks` is whether it added events for the client's webhooks, or reports about their deliveries;
    `endpoints` whether one of them may have to be written to Redis. `repeated` is whether some of them had been applied
    before.
    """

    ended_jobs: Counter[str] = field(default_factory=Counter)
    ended_blasts: list[str] = field(default_factory=list)
    ended_alone: list[str] = field(default_factory=list)
    delays: Delays = field(default_factory=dict)
    suppressions: int = 0
    webhooks: bool = False
    endpoints: bool = False
    repeated: bool = False


@dataclass(slots=True)
class Applied:
    """The result of a batch: events applied, entries that had been applied before, and what ended."""

    events: int = 0
    repeated: int = 0
    written: Written = field(default_factory=Written)


class EventWriter:
    """Writes batches on the store's writing thread; call `forget` after a failed transaction.

    A webhook that has done nothing but fail for `fails_for_ms` is disabled.
    """

    def __init__(self, clock: Clock | None = None, fails_for_ms: int = FAILS_FOR_MS) -> None:
        self._clock = clock or SystemClock()
        self._fails_for_ms = fails_for_ms
        self._producers: dict[str, int] = {}
        self._ahead: tuple[Sequence[EventEntry], Folded] | None = None

    def forget(self) -> None:
        """Forget the producer numbers cached so far: a rolled-back transaction may have created them."""
        self._producers.clear()

    def apply(
        self, connection: Database, entries: Sequence[EventEntry], following: Sequence[EventEntry] = ()
    ) -> Applied:
        """Apply entries, each exactly once; call it within a transaction.

        While the database is at work, those of the next transaction are folded, if they are given as `following`.
        """
        ahead, self._ahead = self._ahead, None
        applied = Applied()
        events: list[Event] = []
        receipts: list[Incoming] = []
        reports: list[Report] = []
        reported: dict[int, str] = {}
        now_ms = self._clock.now_ms()
        batches = [entry.batch for entry in entries if not isinstance(entry.batch, DecodeError)]
        new = iter(rows_of(connection).note_batches(connection, batches, now_ms // 1000, self._producers))
        for entry in entries:
            batch, channel = entry.batch, entry.channel
            if channel == WEBHOOK.name:
                reported[entry.partition] = entry.entry_id
            if entry.unread is not None:
                self._keep_unread(connection, entry, str(entry.unread), entry.unread.raw)
            if isinstance(batch, DecodeError):
                self._keep_unread(connection, entry, str(batch), batch.raw)
            elif not next(new):
                applied.repeated += 1
            elif channel == WEBHOOK.name:
                reports += [Report(entry.partition, event) for event in batch.events]
            else:
                events += batch.events
                for event in batch.events:
                    if isinstance(event, Receipts):
                        receipts += incoming_of(channel, event.items, event.taken_at_ms, now_ms)
        applied.events = len(events) + len(reports)
        # entries that had been applied before were folded too
        of_all = ahead is not None and ahead[0] is entries and not applied.repeated
        folded = ahead[1] if ahead is not None and of_all else fold(events)
        happened = Happened(notices=folded.notices)
        applied.written = _write(connection, folded, happened, lambda: self._fold_ahead(following))
        woken = wake_early(connection, chain(folded.jobs.values(), folded.unlike))
        noted = apply_receipts(connection, [*woken, *receipts], now_ms)
        applied.written.delays, applied.written.suppressions = noted.delays, noted.suppressions
        happened.receipts = noted.new
        journaled = write_journal(connection, happened, now_ms)
        applied.written.endpoints = apply_reports(connection, reports, self._fails_for_ms, now_ms)
        note_reported(connection, reported)
        applied.written.webhooks = journaled > 0 or bool(reports)
        applied.written.repeated = applied.repeated > 0
        return applied

    def _fold_ahead(self, entries: Sequence[EventEntry]) -> None:
        if entries:
            self._ahead = entries, fold(event for entry in entries for event in _events_of(entry))

    def set_aside(self, connection: Database, entry: EventEntry, error: str) -> Applied:
        """Store an entry that cannot be applied in `undecodable_events`, so that it does not block the others."""
        batch = entry.unread or entry.batch
        raw = batch.raw if isinstance(batch, DecodeError) else pack_batch(batch)
        self._keep_unread(connection, entry, error, raw)
        if entry.channel == WEBHOOK.name:
            note_reported(connection, {entry.partition: entry.entry_id})
        return Applied()

    def _keep_unread(self, connection: Database, entry: EventEntry, error: str, raw: bytes) -> None:
        row = (entry.stream, entry.entry_id, error, raw, rfc3339(self._clock.now_ms()))
        connection.execute(_UNDECODABLE, row)


def _events_of(entry: EventEntry) -> Sequence[Event]:
    """Return the events of an entry that change messages and blasts."""
    return () if isinstance(entry.batch, DecodeError) or entry.channel == WEBHOOK.name else entry.batch.events


def write_events(connection: Database, events: Iterable[Event]) -> Written:
    """Write events that have not been applied before and have no receipts among them."""
    return _write(connection, fold(events), Happened(), lambda: None)


def _write(connection: Database, folded: Folded, happened: Happened, meanwhile: Callable[[], None]) -> Written:
    """Write what a batch changed, and add to `happened` what its clients may want to know.

    `meanwhile` is called while the database may be at work on the rows of jobs.
    """
    written, rows = Written(), rows_of(connection)
    touched = write_blasts(connection, folded.blasts)
    if folded.jobs or folded.swept:
        tally = Tally()
        if folded.jobs:
            _write_jobs(connection, list(folded.jobs.values()), tally, happened)
        if folded.swept:
            _write_swept(connection, folded, tally, happened)
        meanwhile()
        _count_passed(tally, folded)
        rows.write_tally(connection, tally)
        for (blast_id, _, status), n in tally.blasts.items():
            touched.add(blast_id)
            if status in TERMINAL:
                written.ended_jobs[blast_id] += n
    rows.write_attempts(connection, folded.attempts, folded.errors)
    rows.write_requests(connection, folded.requests)
    rows.write_system(connection, folded.system)
    happened.blasts = settle_states(connection, touched)
    written.ended_blasts = [one.blast_id for one in happened.blasts if one.ended]
    written.ended_alone = [one.blast_id for one in happened.blasts if one.alone]
    return written


def _write_jobs(connection: Database, changes: Sequence[JobChange], tally: Tally, happened: Happened) -> None:
    rows = rows_of(connection)
    known = {row.job_id: row for row in rows.find_known(connection, [change.job_id for change in changes])}
    for some in rows.parts(changes):
        merged = merge(some, known, tally)
        rows.write_jobs(connection, merged)
        happened.messages += merged.ended


def _write_swept(connection: Database, folded: Folded, tally: Tally, happened: Happened) -> None:
    """Write ranges of jobs: together, unless a client's webhook wants an event for each."""
    wanted = read_wanted(connection)
    for event in folded.swept:
        if wanted(f"message.{event.status}", event.channel):
            unlike = list(changes_of(event, list(job_ids_of(event))))
        else:
            unlike = end_ranges(connection, rows_of(connection), event, tally)
        if unlike:
            _write_jobs(connection, unlike, tally, happened)
            folded.unlike += unlike


def _count_passed(tally: Tally, folded: Folded) -> None:
    for (channel, status, minute), n in folded.passed.items():
        tally.totals[channel, status] += n
        tally.minute(minute, channel)[RETRIED] += n
