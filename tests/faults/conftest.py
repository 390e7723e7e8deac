"""Fixtures of the fault tests: the form of the run, the counted checks, and the table at the end."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.checks import GUARANTEES, Checks
from tests.faults.form import Form
from tests.faults.oracle import Oracle
from tests.faults.world import World

_SHORT_SCALE = 0.25
_SHORT_MIX_S = 45.0
_PROPERTY, _SEED_PROPERTY = "guarantees", "seed"


_SOAK_MINUTES = float(os.environ.get("KURIR_SOAK_MINUTES") or 30)
_SEED = pytest.StashKey[int]()


def _seed(config: pytest.Config) -> int:
    """Return the seed of this process: `--seed`, KURIR_SEED, or a random one, printed at the end."""
    if _SEED not in config.stash:
        given = config.getoption("--seed")
        drawn = int(os.environ.get("KURIR_SEED") or random.randrange(1_000_000))
        config.stash[_SEED] = drawn if given is None else given
    return config.stash[_SEED]


@pytest.fixture(scope="module", params=["short", pytest.param("soak", marks=pytest.mark.soak)])
def form(request: pytest.FixtureRequest) -> Form:
    """The form of this run: short by default, full length with the marker `soak`."""
    seed = _seed(request.config)
    if request.param == "short":
        return Form("short", _SHORT_SCALE, seed, _SHORT_MIX_S)
    return Form("soak", 1.0, seed, _SOAK_MINUTES * 60)


@pytest.fixture
def checks(request: pytest.FixtureRequest) -> Iterator[Checks]:
    """Counts the checks of a test; the test fails at its end if any guarantee was violated."""
    found = Checks()
    yield found
    seed = _seed(request.config)
    request.node.user_properties += [(_PROPERTY, found.summary()), (_SEED_PROPERTY, seed)]
    if found.violations:
        pytest.fail(f"with seed {seed}:\n{found.words()}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the time-outs of fault tests, long enough for a busy machine; the soak's covers its random mix too."""
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            soak = item.get_closest_marker("soak") is not None
            item.add_marker(pytest.mark.timeout(_SOAK_MINUTES * 60 + 900 if soak else 300))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of checks and violations of every guarantee, and the seed of each process that ran tests."""
    done: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    seeds: set[int] = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                for name, found in report.user_properties:
                    if name == _SEED_PROPERTY:
                        seeds.add(found)
                    elif name == _PROPERTY:
                        done.update({guarantee: pair[0] for guarantee, pair in found.items()})
                        bad.update({guarantee: pair[1] for guarantee, pair in found.items()})
    if not done:
        return
    terminalreporter.section(f"guarantees, seed {', '.join(map(str, sorted(seeds)))}")
    terminalreporter.write_line(f"{'guarantee':<10}{'checks':>12}{'violations':>12}")
    for guarantee in GUARANTEES:
        terminalreporter.write_line(f"{guarantee:<10}{done[guarantee]:>12}{bad[guarantee]:>12}")


@pytest.fixture
def oracle(world: World, checks: Checks) -> Oracle:
    """The oracle of the module's world, for one test."""
    return Oracle(world, checks)
