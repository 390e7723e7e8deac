"""The jobs of a call of `begin` or `settle`, in runs of those that share fields."""

from __future__ import annotations

from shared.queue.consumer import Fields, in_runs


def test_successive_jobs_that_share_fields_are_one_run() -> None:
    """What they share comes once, with their number; a job that comes later with the same fields begins a new run."""
    jobs: list[tuple[Fields, Fields]] = [(("a", 1), ("1",)), (("a", 1), ("2",)), (("b", 1), ("3",)), (("a", 1), ("4",))]
    assert in_runs(jobs) == ["a", 1, 2, "1", "2", "b", 1, 1, "3", "a", 1, 1, "4"]


def test_call_without_jobs_has_no_runs() -> None:
    """Nothing is added for them."""
    assert in_runs([]) == []
