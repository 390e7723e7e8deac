"""The spread of a blast's jobs over partitions."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.blasts import SPAN, Blast, pack_blast, partition_of, parts_of, unpack_blast
from shared.templates import Template

BLAST = Blast("b", Template(id="t", name="T", channels=["email"]), ["email"], "bulk", 0, {"email": 7}, 7)


@given(st.text(min_size=1), st.lists(st.integers(0, 40 * SPAN), unique=True), st.integers(1, 64))
def test_parts_count_the_jobs_of_each_partition(blast_id: str, indexes: list[int], partitions: int) -> None:
    """Whatever the id and the recipients: the parts that ingest counts by turn are those that jobs go to."""
    by_turn = [0] * partitions
    for index in indexes:
        by_turn[index // SPAN % partitions] += 1
    parts = parts_of(blast_id, by_turn)
    found = [partition_of(blast_id, index, partitions) for index in indexes]
    assert parts == [found.count(partition) for partition in range(partitions)]


@given(st.text(min_size=1), st.integers(2, 64))
def test_a_span_is_in_one_partition_and_the_next_in_the_next(blast_id: str, partitions: int) -> None:
    """So a chunk is for one partition, and a large blast uses all of them alike."""
    first = partition_of(blast_id, 0, partitions)
    assert partition_of(blast_id, SPAN - 1, partitions) == first
    assert partition_of(blast_id, SPAN, partitions) == (first + 1) % partitions
    assert partition_of(blast_id, SPAN * partitions, partitions) == first


def test_partition_of_a_job_never_changes() -> None:
    """It is part of what is stored: another version must find the job."""
    assert [partition_of("01jt6mzcwa8k2xq4", index, 4) for index in (0, 499, 500, 1999, 2000)] == [0, 0, 1, 3, 0]


def test_blast_keeps_its_spread_when_the_number_of_partitions_is_raised() -> None:
    """Its snapshot says over how many partitions it is spread; one without them is in the first."""
    assert BLAST.shares("email") == {0: 7}
    assert BLAST.partition_of("email", 10 * SPAN) == 0
    spread = msgspec.structs.replace(BLAST, parts={"email": [0, 4, 3]})
    start = spread.partition_of("email", 0)
    in_order = [(start + turn) % 3 for turn in range(3)]
    assert list(spread.shares("email")) == [index for index in in_order if index]
    assert spread.shares("email") == {1: 4, 2: 3}
    assert unpack_blast(pack_blast(spread)) == spread


def test_snapshot_of_one_partition_is_as_before() -> None:
    """An earlier version reads it, and wrote the same."""
    assert b"parts" not in pack_blast(BLAST)
