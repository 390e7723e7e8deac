"""Matching: finds the message that a receipt belongs to.

In this order: the job id, our own Message-ID, the provider's id, and the address if the receipt is an opt-out or an
opt-in. A message of another channel is never found: a receipt belongs to the channel whose stream has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap

import msgspec
import orjson

from services.logger.database import Database
from services.logger.early_receipts import Incoming
from services.logger.suppressing import concerns_suppressions
from shared.addresses import identity
from shared.receipts import Receipt, job_of_message_id

_COLUMNS = (
    "id, job_id, channel, blast_id, run, status, delivery, delivery_at, updated_at,"
    " coalesce(recipient_email, recipient_phone), message_id"
)
_BY_JOB = f"SELECT {_COLUMNS} FROM message_logs WHERE job_id IN (SELECT value FROM json_each(?))"  # noqa: S608 -- own words
# the condition on the channel is the index's: our own mail is found by its Message-ID
_BY_PROVIDER = f"""
SELECT {_COLUMNS} FROM message_logs INDEXED BY idx_message_id
WHERE channel <> 'email' AND message_id IN (SELECT value FROM json_each(?))
"""  # noqa: S608 -- own words
_BY_ADDRESS = f"""
SELECT {_COLUMNS} FROM message_logs INDEXED BY {{index}} WHERE {{column}} = ? AND channel = ? ORDER BY id DESC LIMIT 1
"""  # noqa: S608 -- own words
_OPTS = frozenset({"opted_out", "opted_in"})


class Target(msgspec.Struct, frozen=True, gc=False):
    """The columns of the row that a receipt belongs to; `address` is None while the job's `Queued` has not arrived."""

    row_id: int
    job_id: str
    channel: str
    blast_id: str
    run: int
    status: str
    delivery: str | None
    delivery_at: str | None
    updated_at: str
    address: str | None
    message_id: str | None

    def run_of(self, receipt: Receipt) -> int:
        """Return the run that a receipt is about: that of its Message-ID, else the row's."""
        named = job_of_message_id(receipt.message_id) if receipt.message_id else None
        return named[1] if named and named[0] == self.job_id else self.run


Matched = list[tuple[Incoming, Target]]


def match(connection: Database, incoming: Sequence[Incoming]) -> tuple[Matched, list[Incoming]]:
    """Return the receipts with the rows that they belong to, and those whose message is not in the log (yet).

    A receipt that concerns suppressions also waits for a row that has its address.
    """
    by_job = _rows_by_job(connection, incoming)
    found: Matched = []
    for one in incoming:
        receipt = one.receipt
        target = _by_name(one, by_job) if receipt.message_id else by_job.get(receipt.job_id)
        if target is None or target.address is None or target.channel != one.channel:
            return _match_others(connection, incoming, by_job)
        found.append((one, target))
    return found, []


def _match_others(
    connection: Database, incoming: Sequence[Incoming], by_job: Mapping[str, Target]
) -> tuple[Matched, list[Incoming]]:
    """Match receipts of which some name no job of a complete row."""
    named = [_by_name(one, by_job) for one in incoming]
    nameless = [one for one, target in zip(incoming, named, strict=True) if target is None]
    by_provider = _rows_by_provider(connection, nameless) if nameless else {}
    found: Matched = []
    unknown: list[Incoming] = []
    for one, by_name in zip(incoming, named, strict=True):
        target = by_name or by_provider.get((one.channel, one.receipt.provider_id))
        if target is None and one.receipt.kind in _OPTS and one.receipt.address:
            target = _latest_to(connection, one.channel, one.receipt.address)
        if target is None or (target.address is None and concerns_suppressions(one.receipt)):
            unknown.append(one)
        else:
            found.append((one, target))
    return found, unknown


def _rows_by_job(connection: Database, incoming: Iterable[Incoming]) -> dict[str, Target]:
    """Return the rows of the jobs that receipts name, by job id."""
    names = {one.receipt.job_id for one in incoming if not one.receipt.message_id}
    names.update(name for one in incoming if one.receipt.message_id for name in _names(one.receipt))
    names.discard("")
    if not names:
        return {}
    rows = starmap(Target, connection.execute(_BY_JOB, (orjson.dumps(list(names)).decode(),)))
    return {row.job_id: row for row in rows}


def _names(receipt: Receipt) -> Iterable[str]:
    """Return the job ids that a receipt names, the most reliable first."""
    own = job_of_message_id(receipt.message_id) if receipt.message_id else None
    return dict.fromkeys(name for name in (receipt.job_id, own[0] if own else "") if name)


def _by_name(one: Incoming, rows: Mapping[str, Target]) -> Target | None:
    """Return the row of the job that a receipt names, if that is of its channel."""
    named = (rows.get(name) for name in _names(one.receipt))
    return next((row for row in named if row is not None and row.channel == one.channel), None)


def _rows_by_provider(connection: Database, incoming: Iterable[Incoming]) -> dict[tuple[str, str], Target]:
    """Return the rows with the provider's ids of these receipts, by channel and id; of two, the latest."""
    ids = {one.receipt.provider_id for one in incoming if one.receipt.provider_id}
    if not ids:
        return {}
    rows = starmap(Target, connection.execute(_BY_PROVIDER, (orjson.dumps(list(ids)).decode(),)))
    found: dict[tuple[str, str], Target] = {}
    for row in rows:
        key = (row.channel, row.message_id or "")
        if key not in found or found[key].row_id < row.row_id:
            found[key] = row
    return found


def _latest_to(connection: Database, channel: str, address: str) -> Target | None:
    """Return the latest message to an address in any spelling."""
    own = identity(address)
    columns = ("recipient_email" if "@" in address else "recipient_phone", "recipient_identity")
    places = [(columns[0], address), *(((columns[0], own),) if own != address else ()), (columns[1], own)]
    rows = [
        Target(*row)
        for column, value in places
        for row in connection.execute(_BY_ADDRESS.format(index=f"idx_{column}", column=column), (value, channel))
    ]
    return max(rows, key=lambda row: row.row_id, default=None)
