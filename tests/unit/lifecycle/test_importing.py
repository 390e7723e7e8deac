"""How processes import their modules: without collecting garbage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ENTRIES = sorted(ROOT.glob("services/*/__main__.py"))

# counts the collections before the modules are set aside; the settings are wrong, so the service ends at once
SCRIPT = """
import gc, runpy
gc.collect()
seen = []
gc.callbacks.append(lambda _, info: gc.get_freeze_count() or info["generation"] < 1 or seen.append(info))
try:
    runpy.run_module("services.logger", run_name="__main__")
except SystemExit as end:
    print(end.code, len(seen), gc.isenabled(), gc.get_freeze_count() > 50_000)
"""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.parent.name)
def test_every_process_imports_its_modules_uncollected(entry: Path) -> None:
    """No entry point imports anything of a service outside of `never_collected`."""
    lines = [line for line in entry.read_text().splitlines() if "import " in line]
    name = entry.parent.name
    assert lines == ["from shared.importing import never_collected", f"    from services.{name}.main import run"]


def test_no_garbage_is_collected_while_a_process_starts() -> None:
    """The modules are never visited; afterwards, the collector works for what the service makes."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KURIR_")}
    env["KURIR_LOG_LEVEL"] = "loud"
    words = [sys.executable, "-c", SCRIPT]
    found = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["2", "0", "True", "True"], found.stderr
