"""The ids of blasts begin with their time, and sort by it."""

from __future__ import annotations

import pytest

from services.ingest.blasts.submission import new_blast_id
from shared.blasts import lowest_blast_id, time_of_blast_id

DAY_MS = 86_400_000


@pytest.mark.parametrize("at_ms", [1_577_836_800_000, 1_777_777_777_777, 19_999 * DAY_MS, 20_000 * DAY_MS - 1])
def test_an_id_is_between_the_bounds_of_its_time(at_ms: int) -> None:
    """So the jobs of a day are a range of ids; a job's id begins with its blast's."""
    job_id = f"{new_blast_id(at_ms)}:0:email"
    assert time_of_blast_id(job_id.partition(":")[0]) == at_ms
    assert lowest_blast_id(at_ms) <= job_id < lowest_blast_id(at_ms + 1)


def test_a_time_before_all_ids_is_below_them() -> None:
    """It has no digits of its own."""
    assert lowest_blast_id(0) == lowest_blast_id(1_577_836_800_000) < new_blast_id(1_577_836_800_000)
