"""What Redis has to know of an expired blast: its counts, as the log has them."""

from __future__ import annotations

from services.logger.redelivery import RetryRequest, open_runs
from services.logger.restoring import counts_before
from shared.blasts import SPAN, parts_of
from shared.events import Event
from tests.unit.logger.database import START_MS, Database, accepted, blast, entry, failed, queued, sent

INDEXES = (0, 1, SPAN, SPAN + 1, 3 * SPAN, 12 * SPAN)


def test_counts_are_those_of_each_partition(database: Database) -> None:
    """Jobs whose next run waits in the outbox count as failed, each in its own partition."""
    one = blast(total=len(INDEXES))
    by_turn = [sum(index // SPAN % 4 == turn for index in INDEXES) for turn in range(4)]
    spread = blast(total=len(INDEXES), parts={"email": parts_of(one.blast_id, by_turn)})
    outcomes: list[Event] = [sent(0), failed(1), failed(SPAN), failed(SPAN + 1), sent(3 * SPAN), sent(12 * SPAN)]
    database.apply(entry(1, accepted(spread), queued(INDEXES), *outcomes))
    open_runs(database.connection, RetryRequest(job_id=f"b:{SPAN}:email"), START_MS)
    counts = counts_before(database.connection, spread, ["email"])["email"]
    first, second, fourth = (spread.partition_of("email", index) for index in (0, SPAN, 3 * SPAN))
    # the first partition has jobs 0, 1 and the one twelve spans on
    assert counts[first] == {"sent": 2, "failed": 1}
    assert counts[second] == {"failed": 2, "queued": 1}
    assert counts[fourth] == {"sent": 1}
    assert counts.keys() == spread.shares("email").keys()


def test_counts_of_a_blast_in_one_partition_are_those_of_its_channel(database: Database) -> None:
    """A channel that the log knows nothing of is left out."""
    one = blast(total=2)
    database.apply(entry(1, accepted(one), queued(range(2)), sent(0), failed(1)))
    assert counts_before(database.connection, one, ["email", "whatsapp"]) == {"email": {0: {"sent": 1, "failed": 1}}}
