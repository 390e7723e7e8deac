"""Two versions in turns: what the other one does not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import against
from benchmarks.processes import BenchmarkError
from benchmarks.suite import CONTESTS, Options


def test_a_work_that_the_other_version_does_not_know_is_named(tmp_path: Path) -> None:
    """An earlier version has fewer works; the message says what to leave out."""
    unknown = replace(CONTESTS[0], name="a later work")
    with pytest.raises(BenchmarkError, match="does not know the work a later work: name the others with --works"):
        against._measure("before", against.ROOT, tmp_path, unknown, Options([], 1, quick=True, append_fsync="always"))
