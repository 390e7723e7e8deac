"""docs/api.md is correct: every command of its session is run and every answer compared."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.ingest.blasts.csv_header import ALIASES
from shared.rendering.filters import FILTERS
from tests.e2e.api_session import PAGE, read_steps, run_steps, steady, written_codes
from tests.e2e.conftest import MakeSystem


def test_the_session_gives_the_documented_answers(make_system: MakeSystem, tmp_path: Path) -> None:
    """They run on a fresh system in one shell; only ids, times and durations may differ."""
    for program in ("bash", "curl", "jq"):
        assert shutil.which(program), f"{program} is needed to run docs/api.md"
    steps = read_steps(PAGE.read_text("utf-8"))
    assert len(steps) >= 40
    system = make_system()
    system.up()
    answers = run_steps(steps, f"http://127.0.0.1:{system.port}", tmp_path)
    for step, answer in zip(steps, answers, strict=True):
        assert steady(answer) == steady(step.answer), step.command


def test_every_filter_is_documented() -> None:
    """The page names each of them."""
    text = PAGE.read_text("utf-8")
    assert [name for name in FILTERS if f"`{name}`" not in text] == []


def test_every_column_alias_is_documented() -> None:
    """The page lists all the column names that the reader accepts."""
    page = PAGE.read_text("utf-8")
    for field, names in ALIASES.items():
        assert f"| `{field}` | {', '.join(f'`{name}`' for name in names)} |" in page


def test_the_table_of_codes_matches_the_code() -> None:
    """A code that is added, removed or given another status fails the test."""
    text = PAGE.read_text("utf-8")
    assert written_codes(text) == text
