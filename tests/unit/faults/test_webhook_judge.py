"""The judge of G9 finds what is missing and what has two ids."""

from __future__ import annotations

import pytest

from tests.faults.checks import Checks
from tests.faults.webhook_client import Key, judge_arrivals

SENT: Key = ("message.sent", "b:0:email", 1)
FAILED: Key = ("message.failed", "b:1:email", 2)
DONE: Key = ("blast.completed", "b", 0)


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ({SENT: {"evt_1"}, FAILED: {"evt_2"}, DONE: {"evt_3", "evt_4"}}, ""),
        ({SENT: {"evt_1"}, DONE: {"evt_3"}}, "did not reach"),
        ({SENT: {"evt_1"}, ("message.failed", "b:1:email", 1): {"evt_2"}, DONE: {"evt_3"}}, "did not reach"),
        ({SENT: {"evt_1"}, FAILED: {"evt_2"}}, "did not reach"),
        ({SENT: {"evt_1", "evt_5"}, FAILED: {"evt_2"}, DONE: {"evt_3"}}, "under two ids"),
    ],
)
def test_each_violation_is_found(taken: dict[Key, set[str]], said: str) -> None:
    """A message's end of the right run, a blast's end however often it ends, and one id for each event."""
    checks = Checks()
    judge_arrivals(checks, "all", {SENT, FAILED}, {"b"}, taken)
    assert checks.done["G9"] == 5
    assert [words for _, words in checks.violations if said in words] == [words for _, words in checks.violations]
    assert bool(checks.violations) == bool(said)
