"""Acting on a filter: sending again all failed messages that match it, once their number is confirmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import orjson

from services.logger.blast_rows import read_snapshot
from services.logger.database import Database
from services.logger.filters import MAX_LIMIT, MessageFilter, Page
from services.logger.queries import MESSAGE_COLUMNS, find_messages
from services.logger.redelivery import UNCERTAIN, Outbox, Reopened, is_cancelled, open_letters
from services.logger.store import Store
from shared.errors import KurirError

MOST_MATCHED = 100_000
"""At most this many messages are sent again by one call, the latest ones."""
_JOBS_A_TRANSACTION = 500
_JOB_ID = MESSAGE_COLUMNS.index("job_id")
LETTERS = """
SELECT job_id, channel, job, error_class, blast_id FROM dead_letters
WHERE job_id IN (SELECT value FROM json_each(?)) ORDER BY blast_id
"""


class NotConfirmedError(KurirError):
    """More messages match than were confirmed."""


@dataclass(frozen=True, slots=True)
class Retried:
    """The number of failed messages that match, of those sent again, and of those left out.

    `complete` is false if more match than one call takes.
    """

    matched: int
    complete: bool
    reopened: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Matching:
    """The ids of the failed messages that match a filter, the latest first."""

    job_ids: Sequence[str]
    complete: bool


async def find_failed(store: Store, wanted: MessageFilter, most: int | None = None) -> Matching:
    """Find the failed messages that match, a page at a time; raises StorageError and QueryTooSlowError."""
    if wanted.statuses and "failed" not in wanted.statuses:
        return Matching([], complete=True)
    failed = replace(wanted, statuses=("failed",))
    limit = MOST_MATCHED if most is None else most
    found: list[str] = []
    cursor = 0
    while True:
        page = Page(MAX_LIMIT, cursor)
        rows = await store.read(partial(find_messages, wanted=failed, page=page))
        found += (row[_JOB_ID] for row in rows.rows)
        cursor = rows.next_id
        if len(found) > limit:
            return Matching(found[:limit], complete=False)
        if not cursor:
            return Matching(found, complete=True)


async def retry_matching(
    store: Store, outbox: Outbox, wanted: MessageFilter, confirm: int | None, *, include_uncertain: bool
) -> Retried:
    """Send the matching messages again if `confirm` is at least their number; without `confirm`, only count them.

    Raises NotConfirmedError, StorageError and QueryTooSlowError.
    """
    matching = await find_failed(store, wanted)
    matched = len(matching.job_ids)
    if confirm is None:
        return Retried(matched, matching.complete)
    if matched > confirm:
        raise NotConfirmedError(f"{matched} failed messages match, but `confirm` is {confirm}; none is sent again")
    reopened = skipped = 0
    for chunk in _chunks(matching.job_ids):
        done = await outbox.open(partial(open_runs_of_jobs, job_ids=chunk, include_uncertain=include_uncertain))
        reopened, skipped = reopened + done.reopened, skipped + done.skipped
    return Retried(matched, matching.complete, reopened, skipped)


def open_runs_of_jobs(
    connection: Database, now_ms: int, *, job_ids: Sequence[str], include_uncertain: bool
) -> Reopened:
    """Open the next run of these jobs; call it within a transaction.

    Skipped are those that may have been delivered, unless they are included, those whose blast was cancelled or no
    longer exists, and those that did not fail or whose letter is gone.
    """
    reopened = 0
    rows = connection.execute(LETTERS, (orjson.dumps(job_ids).decode(),)).fetchall()
    for blast_id, group in groupby(rows, key=lambda row: row[4]):
        letters = [row[:3] for row in group if include_uncertain or row[3] != UNCERTAIN]
        blast = read_snapshot(connection, blast_id)
        if blast is None or is_cancelled(connection, blast_id):
            continue
        open_letters(connection, blast, letters, now_ms)
        reopened += len(letters)
    return Reopened(reopened, len(job_ids) - reopened)


def _chunks(job_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(job_ids), _JOBS_A_TRANSACTION):
        yield job_ids[first : first + _JOBS_A_TRANSACTION]
