"""The rates of blasts where several loggers write: they follow from the counts, whichever logger wrote them."""

from __future__ import annotations

from services.logger.recent_ends import RecentEnds, count_ended
from services.logger.redelivery import RetryRequest, open_runs
from shared.events import BlastChannelEnded, Event
from tests.unit.logger.database import START_MS, Database, accepted, blast, entry, failed, queued, sent


def test_what_ended_between_two_samples_is_the_rate(database: Database) -> None:
    """Sent and failed messages count; what had ended before the first sample does not, nor a blast that is over."""
    done = entry(1, accepted(blast("done", total=1)), queued((0,), "done"), sent(0, "done"))
    database.apply(done, entry(2, accepted(blast(total=40)), queued(range(40)), sent(0)))
    recent = RecentEnds()
    recent.compare(count_ended(database.connection))
    assert recent.rates() == {}
    database.apply(entry(3, *map(sent, range(1, 20)), failed(20)))
    recent.compare(count_ended(database.connection))
    assert recent.rates() == {"b": 2.0}


def test_a_blast_that_is_new_counts_from_its_first_message(database: Database) -> None:
    """A message that is sent again lowers the count of ended ones, and the rate does not become negative."""
    recent = RecentEnds()
    recent.compare(count_ended(database.connection))
    database.apply(entry(1, accepted(blast(total=20)), queued(range(20)), *map(failed, range(10))))
    recent.compare(count_ended(database.connection))
    assert recent.rates() == {"b": 1.0}
    database.apply(entry(2, queued(range(10), run=2)))
    recent.compare(count_ended(database.connection))
    assert recent.rates() == {}


def test_a_blast_that_is_opened_again_starts_from_what_had_ended(database: Database) -> None:
    """Its messages that ended long ago are not its rate; what ends from then on is."""
    story: list[Event] = [accepted(blast(total=20)), queued(range(20)), *map(failed, range(20))]
    end = BlastChannelEnded(START_MS + 50, "b", "email", {"total": 20})
    database.apply(entry(1, *story, end))
    recent = RecentEnds()
    recent.compare(count_ended(database.connection))
    assert count_ended(database.connection).jobs == {}
    for index in (0, 1):
        assert open_runs(database.connection, RetryRequest(job_id=f"b:{index}:email"), START_MS + 60).reopened == 1
    database.apply(entry(2, queued((0, 1), run=2, at=61)))
    assert count_ended(database.connection).jobs == {"b": 18}
    recent.compare(count_ended(database.connection))
    assert recent.rates() == {}
    database.apply(entry(3, sent(0, run=2, at=70)))
    recent.compare(count_ended(database.connection))
    assert recent.rates() == {"b": 0.1}
