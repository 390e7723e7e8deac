"""The first pass: it checks every recipient, spools the accepted ones, finds duplicates and counts the totals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from services.ingest.blasts.csv_columns import UnfitRows, missing_columns
from services.ingest.blasts.csv_header import Header
from services.ingest.blasts.csv_rows import CsvRow
from services.ingest.blasts.duplicates import Duplicates, Places
from services.ingest.blasts.recipient_checker import RecipientChecker
from services.ingest.blasts.recipients import Accepted, Checked, FoundProblems
from services.ingest.blasts.request_body import BlastBody
from services.ingest.blasts.spool import Spool
from services.ingest.blasts.terms import Terms
from services.ingest.http.errors import MAX_PROBLEMS, Problem, invalid
from shared.addresses import identity
from shared.blasts import SPAN
from shared.channels import CHANNELS
from shared.sealing import Seal, sensitive_names

# checking one recipient takes up to half a millisecond, where its message is rendered as a test
AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Totals:
    """A blast's totals: jobs by channel, recipients with at least one job, duplicates, rejected recipients.

    `by_turn` has the jobs of a channel whose spans of recipient indexes have their turn first, second, … (modulo the
    number of the queue's partitions): the blast's id, which is not known yet, decides which partitions these are.
    """

    by_turn: dict[str, list[int]]
    recipients: int
    duplicates: int
    rejected: int

    @property
    def by_channel(self) -> dict[str, int]:
        """Jobs by channel."""
        return {channel: sum(turns) for channel, turns in self.by_turn.items()}

    @property
    def messages(self) -> int:
        """Jobs on all channels."""
        return sum(self.by_channel.values())


class FirstPass:
    """The first pass of one blast; a context manager, since it keeps files. It counts for a number of `partitions`."""

    def __init__(self, terms: Terms, region: str, folder: Path, seal: Seal, partitions: int = 1) -> None:
        self._terms = terms
        self._seal = seal
        self._sensitive = sensitive_names(terms.template)
        self._rules = terms.rules(region)
        self._checker = RecipientChecker(self._rules)
        self._channels = len(terms.channels)
        self._counts = [[0] * partitions for _ in range(self._channels)]
        self._duplicates = Duplicates(folder)
        self._read = 0
        self._rejected = 0
        self._missing: dict[str, Problem] | None = None
        self._unfit = UnfitRows()
        self.spool = Spool(folder)
        self.found = FoundProblems()
        self.dropped = Places()

    def __enter__(self) -> FirstPass:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.spool.close()
        self._duplicates.close()

    async def run(self, incoming: BlastBody) -> Totals:
        """Check and spool every recipient; raises ApiError for an unreadable body, OSError for a full disk."""
        async for entries in incoming.entries:
            for place, entry in enumerate(entries, 1):
                if isinstance(entry, CsvRow):
                    self._take_row(entry)
                else:
                    self._take(self._checker.check_json(entry, self._read, incoming.path, describe=not self.found.full))
                self._read += 1
                if not place % AT_ONCE:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
        self.found.add(self._unfit.problems())
        return self._totals()

    def _take_row(self, row: CsvRow) -> None:
        if self._missing is None:
            self._missing = self._check_columns(self._checker.read_columns(row.header))
        if self._unfit.take(row):
            self._rejected += 1
            return
        checked = self._checker.check_row(row, self._read)
        if checked.problems:
            # with blank rows in the file, the recipient's index does not say which row it is
            found = [
                Problem(one.field, one.code, f"line {row.line}: {one.message}")
                for one in checked.problems
                if self._is_of_row(one)
            ]
            checked = Checked(checked.accepted, found)
        self._take(checked)

    def _check_columns(self, header: Header) -> dict[str, Problem]:
        """Report the columns that the file lacks; raises ApiError where nothing can be sent without them."""
        missing = missing_columns(header, self._rules)
        self.found.add(list(missing.values()))
        served = [name for name in self._terms.channels if CHANNELS[name].address_field not in missing]
        if missing and (self._terms.head.validation == "strict" or not served):
            raise self.found.answer()
        return missing

    def _is_of_row(self, problem: Problem) -> bool:
        """Return False for a missing column that was already reported for the whole file."""
        return problem.field.partition("].")[2] not in (self._missing or ()) or "MISSING" not in problem.code

    def _take(self, checked: Checked) -> None:
        if checked.problems:
            self.found.add(checked.problems)
            # nothing will be queued, and the answer has no room for more: stop reading a file full of mistakes
            if self.found.full and self._terms.head.validation == "strict":
                raise self.found.answer()
        accepted = checked.accepted
        if accepted is None:
            self._rejected += 1
            return
        position, turn = self.spool.count * self._channels, self._turn(accepted)
        for channel, address in enumerate(accepted.addresses):
            if address:
                self._duplicates.add(position + channel, channel, identity(address))
                self._counts[channel][turn] += 1
        if self._sensitive:
            variables = self._seal.closed(accepted.variables, self._sensitive)
            accepted = msgspec.structs.replace(accepted, variables=variables)
        self.spool.add(accepted)

    def _turn(self, accepted: Accepted) -> int:
        return accepted.index // SPAN % len(self._counts[0])

    def _totals(self) -> Totals:
        self.dropped = self._duplicates.positions()
        emptied = 0
        for accepted, places in self._repeats() if self.dropped else ():
            for channel in places:
                self._counts[channel][self._turn(accepted)] -= 1
            emptied += len(places) == sum(map(bool, accepted.addresses))
            if self._terms.head.on_duplicate == "error":
                self.found.add([self._duplicate(accepted, channel) for channel in places])
        return Totals(
            by_turn=dict(zip(self._terms.channels, self._counts, strict=True)),
            recipients=self.spool.count - emptied,
            duplicates=len(self.dropped),
            rejected=self._rejected,
        )

    def _repeats(self) -> Iterator[tuple[Accepted, list[int]]]:
        """Yield the recipients with a repeated address, and the channels on which it is repeated."""
        for ordinal, accepted in enumerate(accepted for block in self.spool.blocks() for accepted in block):
            start = ordinal * self._channels
            if places := [channel for channel in range(self._channels) if start + channel in self.dropped]:
                yield accepted, places

    def _duplicate(self, accepted: Accepted, channel: int) -> Problem:
        field = CHANNELS[self._terms.channels[channel]].address_field
        path = f"recipients[{accepted.index}].{field}"
        return Problem(path, "DUPLICATE_RECIPIENT", f"an earlier recipient has the same {field}")

    def verdict(self, totals: Totals) -> None:
        """Raise ApiError where none of the blast may be queued."""
        strict = self._terms.head.validation == "strict"
        if self.found.total and (strict or not totals.messages):
            raise self.found.answer()
        if not totals.messages:
            raise invalid([Problem("recipients", "NO_RECIPIENTS", "the request has no recipients")])

    @property
    def warnings(self) -> list[Problem]:
        """A warning for each name that the template does not use: global variables, then recipients' or columns."""
        return [*self._terms.warnings, *self._checker.unknown.warnings][:MAX_PROBLEMS]

    @property
    def listed(self) -> list[Problem]:
        """The problems that the answer lists."""
        return self.found.first[:MAX_PROBLEMS]
