"""A blast's state follows from its events and its jobs' counts, in any order of arrival."""

from __future__ import annotations

import itertools

import pytest

from shared.events import BlastChanged, BlastChannelEnded, Queued
from tests.unit.logger.database import START_MS, Database, accepted, blast, entry, failed, queued, sent


def state(database: Database) -> tuple[str, bool]:
    (row,) = database.rows("SELECT state, ended_at_ms FROM blasts")
    return row[0], row[1] > 0


def ended(total: int, at: int = 100) -> BlastChannelEnded:
    return BlastChannelEnded(START_MS + at, "b", "email", {"total": total})


def test_a_blast_runs_from_enqueueing_to_completed(database: Database) -> None:
    """It is enqueueing until all its jobs are known, then running until all have ended."""
    database.apply(entry(1, accepted(blast(total=3))))
    assert state(database) == ("enqueueing", False)
    database.apply(entry(2, queued(range(2))))
    assert state(database) == ("enqueueing", False)
    database.apply(entry(3, queued([2])))
    assert state(database) == ("running", False)
    applied = database.apply(entry(4, *[sent(index) for index in range(3)], ended(3)))
    assert state(database) == ("completed", True)
    assert applied.written.ended_blasts == ["b"]
    assert applied.written.ended_jobs == {"b": 3}


def test_an_end_that_arrives_before_its_jobs_waits_for_them(database: Database) -> None:
    """Streams may be read in any order, so the counts decide."""
    database.apply(entry(1, accepted(blast(total=2)), queued(range(2)), ended(2)))
    assert state(database) == ("running", False)
    database.apply(entry(2, sent(0), failed(1)))
    assert state(database) == ("completed_with_failures", True)


def test_a_reopened_blast_runs_and_ends_again(database: Database) -> None:
    """A second run clears its end and sets a later one."""
    database.apply(entry(1, accepted(blast(total=1)), queued(), failed(), ended(1)))
    database.apply(entry(2, queued(run=2, at=200)))
    assert state(database) == ("running", False)
    applied = database.apply(entry(3, sent(run=2, at=300), ended(1, at=301)))
    assert state(database) == ("completed", True)
    assert applied.written.ended_blasts == ["b"]


def test_a_pause_holds_until_it_is_resumed(database: Database) -> None:
    """Pause and resume count by their times, not by the order in which they are read."""
    database.apply(entry(1, accepted(blast(total=1)), queued()))
    database.apply(entry(2, BlastChanged(START_MS + 20, "b", "resumed")))
    database.apply(entry(3, BlastChanged(START_MS + 10, "b", "paused", "by hand")))
    assert state(database) == ("running", False)
    database.apply(entry(4, BlastChanged(START_MS + 30, "b", "paused", "again")))
    assert state(database) == ("paused", False)
    database.apply(entry(5, BlastChanged(START_MS + 25, "b", "paused", "before that")))
    assert database.one("SELECT pause_reason FROM blasts") == "again"


def test_a_pause_ends_with_its_blast(database: Database) -> None:
    """The jobs in flight at the pause were the last; when one is sent again, the blast runs until the next pause."""
    database.apply(entry(1, accepted(blast(total=1)), queued(), BlastChanged(START_MS + 10, "b", "paused", "by hand")))
    database.apply(entry(2, failed(at=20), ended(1, at=21)))
    assert state(database) == ("completed_with_failures", True)
    database.apply(entry(3, queued(run=2, at=200)))
    assert state(database) == ("running", False)
    database.apply(entry(4, BlastChanged(START_MS + 300, "b", "paused", "again")))
    assert state(database) == ("paused", False)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_each_channel_reports_a_change(database: Database, order: tuple[int, ...]) -> None:
    """A blast on two channels gets each pause and resume twice, in any order."""
    told = [
        BlastChanged(START_MS + 10, "b", "paused", "by hand"),
        BlastChanged(START_MS + 11, "b", "paused", "by hand"),
        BlastChanged(START_MS + 20, "b", "resumed"),
        BlastChanged(START_MS + 21, "b", "resumed"),
    ]
    database.apply(entry(1, accepted(blast(total=1)), queued()))
    for number, which in enumerate(order, start=2):
        database.apply(entry(number, told[which]))
    assert state(database) == ("running", False)


def test_a_cancelled_blast_ends_with_its_enqueued_jobs(database: Database) -> None:
    """Its total becomes the number of enqueued jobs, so that its counts add up."""
    database.apply(entry(1, accepted(blast(total=500)), queued(range(2)), sent(0)))
    database.apply(entry(2, BlastChanged(START_MS + 20, "b", "cancelled")))
    assert state(database) == ("cancelled", False)
    database.apply(entry(3, failed(1), ended(2)))
    assert state(database) == ("cancelled", True)


def test_a_scheduled_blast_has_state_scheduled(database: Database) -> None:
    """Its state is scheduled until its first job leaves that status."""
    later = START_MS + 3_600_000
    scheduled = Queued(START_MS, "b", "email", "t", "T", queued().recipients, "scheduled")
    database.apply(entry(1, accepted(blast(total=1, scheduled_at_ms=later)), scheduled))
    assert state(database) == ("scheduled", False)
    database.apply(entry(2, sent(at=3_600_010)))
    assert state(database)[0] == "running"


def test_a_change_that_arrives_before_its_blast_is_kept(database: Database) -> None:
    """The two events come from different streams, so either may be read first."""
    database.apply(entry(1, BlastChanged(START_MS + 5, "b", "cancelled")))
    database.apply(entry(2, accepted(blast(total=1)), queued()))
    assert state(database) == ("cancelled", False)
    assert database.one("SELECT template_name FROM blasts") == "Reminder"


def test_blasts_of_one_template_share_it(database: Database) -> None:
    """Blasts with the same template store it only once."""
    database.apply(entry(1, *[accepted(blast(f"b{number}")) for number in range(20)]))
    assert database.one("SELECT count(*) FROM blast_templates") == 1
    assert database.one("SELECT count(*) FROM blasts") == 20


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_blast_in_several_partitions_ends_with_the_last(database: Database, order: tuple[int, ...]) -> None:
    """Each partition reports its own end and total; the blast's total is their sum, also where it was cut short."""
    database.apply(entry(1, accepted(blast(total=9)), queued(range(6)), *[sent(index) for index in range(6)]))
    ends = [BlastChannelEnded(START_MS + 50 + index, "b", "email", {"total": 2}, 3 * index, 3) for index in range(3)]
    for number, place in enumerate(order):
        assert state(database) == ("enqueueing", False), number
        database.apply(entry(2 + number, ends[place], ends[place]))
    assert state(database) == ("completed", True)
    assert database.one("SELECT ended_at_ms FROM blasts") == START_MS + 52


def test_a_reopened_partition_of_a_blast_ends_again(database: Database) -> None:
    """The ends of the other partitions stay."""
    first, second = (BlastChannelEnded(START_MS + 50, "b", "email", {"total": 1}, index, 2) for index in range(2))
    database.apply(entry(1, accepted(blast(total=2)), queued(range(2)), sent(0), failed(1), first, second))
    assert state(database) == ("completed_with_failures", True)
    database.apply(entry(2, queued([1], run=2, at=200)))
    assert state(database) == ("running", False)
    again = BlastChannelEnded(START_MS + 301, "b", "email", {"total": 1}, 1, 2)
    database.apply(entry(3, sent(1, run=2, at=300), again, first))
    assert state(database) == ("completed", True)
    assert database.one("SELECT ended_at_ms FROM blasts") == START_MS + 301
