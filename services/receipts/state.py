"""What the service has done since its start, and how much waits: the numbers behind its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from services.receipts.reading import Reading
from shared.queue.receipts import ReceiptCounts

IGNORED = "ignored"


@dataclass(slots=True)
class ReceiptsState:
    """Counts by source: the receipts by their kind, events that were ignored, and entries that were set aside.

    An entry that is read again after a crash is counted again. `counts` is the latest look at the stream, None before
    the first and while Redis is away. `mailbox_failing_s` returns for how many seconds the mailbox for bounces could
    not be read, 0 without a mailbox.
    """

    read: Counter[tuple[str, str]] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    counts: ReceiptCounts | None = None
    mails: Counter[tuple[str, str]] = field(default_factory=Counter)
    mailbox_failing_s: Callable[[], float] = lambda: 0.0

    def count_mail(self, way: str, result: str) -> None:
        """Count a bounce mail by the way that it came, and whether it was taken."""
        self.mails[way, result] += 1

    def note(self, source: str, reading: Reading) -> None:
        """Count what an entry of a source said."""
        for receipt in reading.receipts:
            self.read[source, receipt.kind] += 1
        if reading.ignored:
            self.read[source, IGNORED] += reading.ignored
