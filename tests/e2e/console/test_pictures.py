"""The pictures of the documents: the tests take them; with `PICTURES=docs/pictures` (`make pictures`), to be kept."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.console.conftest import ENV
from tests.e2e.console.pictures import FULL, SHORT, sections_of, size_of, take
from tests.e2e.system import System

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "docs" / "pictures"
_BLANK_BYTES = 20_000


def named() -> set[str]:
    """Return the names of the pictures that the documents show."""
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return {name for text in texts for name in re.findall(r"\]\([\w/.]*pictures/([\w.-]+)\)", text.read_text())}


def test_the_documents_show_the_console_as_it_is(
    browser: Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each picture that they show can be taken now: in the same size, and of a page with the same sections."""
    wanted = os.environ.get("PICTURES")
    folder = Path(wanted) if wanted else tmp_path
    if wanted:
        system = System(tmp_path, ENV)
        system.up()
        try:
            take(system, browser, folder, FULL)
        finally:
            system.interrupt()
    else:
        take(request.getfixturevalue("system"), browser, folder, SHORT)
    taken = sorted(folder.glob("*.png"))
    assert {one.name for one in taken} == {one.name for one in KEPT.glob("*.png")} == named()
    for one in taken:
        kept = KEPT / one.name
        assert size_of(one) == size_of(kept), one.name
        assert sections_of(one) == sections_of(kept), f"{one.name} is out of date: make pictures"
        assert one.stat().st_size > _BLANK_BYTES
