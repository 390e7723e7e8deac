"""The recorder's batches: transactions of bounded size, and reads of bounded memory."""

from __future__ import annotations

from services.logger.recorder import gather_s, in_transactions, next_limit
from shared.events import Swept, SweptRanges
from tests.unit.logger.database import START_MS, begun_together, entry, job, queued, sent


def swept(count: int) -> Swept:
    return Swept(START_MS, "cancelled", "cancelled", "cancelled before it was sent", [job(n) for n in range(count)])


def swept_ranges(*ranges: tuple[int, int]) -> SweptRanges:
    return SweptRanges(START_MS, "cancelled", "cancelled", "cancelled before it was sent", "b", "email", 1, [*ranges])


def test_transactions_are_bounded_and_keep_the_order() -> None:
    """A chunk of 500 recipients weighs 500, enqueued or swept; an entry is never split, whatever its weight."""
    entries = [entry(number, queued(range(500))) for number in range(10)]
    entries += [entry(number, swept(500)) for number in range(10, 20)]
    entries += [entry(100, *[sent(index) for index in range(6000)]), entry(101, sent())]
    groups = list(in_transactions(entries))
    assert [one for group in groups for one in group] == entries
    assert [len(group) for group in groups] == [8, 8, 4, 1, 1]
    entries = [entry(number, swept_ranges((0, 249), (1000, 1249))) for number in range(10)]
    assert [len(group) for group in in_transactions(entries)] == [8, 2]
    entries = [entry(number, begun_together(range(500))) for number in range(10)]
    assert [len(group) for group in in_transactions(entries)] == [8, 2]


def test_the_size_of_reads_follows_the_weight_of_entries() -> None:
    """The number of entries per read depends on their weight, so that a read holds about as many events."""
    assert next_limit([]) == 20
    assert next_limit([entry(1, queued(range(500)))]) == 20
    assert next_limit([entry(1, swept(500))]) == 20
    assert next_limit([entry(1, sent())]) == 500
    assert next_limit([entry(1, *[sent(index) for index in range(50)])]) == 160


def test_batches_grow_for_longer_while_many_events_arrive() -> None:
    """Few messages are written as soon as before; the events of a large blast take fewer transactions."""
    assert gather_s([entry(1, queued()), entry(2, sent())]) == 0.1
    assert gather_s([entry(1, *[sent(index) for index in range(99)])]) == 0.1
    assert gather_s([entry(1, *[sent(index) for index in range(60)]), entry(2, begun_together(range(40)))]) == 0.25
