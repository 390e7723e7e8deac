"""The judge of receipts sees what it is there to see."""

from __future__ import annotations

import pytest

from shared.receipts import Receipt
from tests.faults.checks import Checks
from tests.faults.receipts import Logged, judge_log, judge_suppressions

DELIVERED = Receipt("delivered", "ses", 1.0, "b:0:email", trusted=True)
BOUNCED = Receipt("bounced", "ses", 2.0, "b:0:email", severity="hard", trusted=True)
TOLD = {"b:0:email": [DELIVERED, BOUNCED], "b:1:email": []}
ROWS = {("b:0:email", "delivered"): 1, ("b:0:email", "bounced"): 1}
GOOD = Logged(ROWS, {"b:0:email": "bounced", "b:1:email": ""}, {"bounced": 1})


@pytest.mark.parametrize(
    ("logged", "violations"),
    [
        (GOOD, 0),
        (Logged({**ROWS, ("b:0:email", "bounced"): 2}, GOOD.deliveries, GOOD.kept), 1),
        (Logged({("b:0:email", "delivered"): 1}, GOOD.deliveries, GOOD.kept), 1),
        (Logged({**ROWS, ("b:1:email", "bounced"): 1}, GOOD.deliveries, GOOD.kept), 1),
        (Logged(ROWS, {**GOOD.deliveries, "b:0:email": "delivered"}, GOOD.kept), 1),
        (Logged(ROWS, {**GOOD.deliveries, "b:1:email": "bounced"}, {"bounced": 2}), 2),
        (Logged(ROWS, GOOD.deliveries, {"bounced": 1, "delivered": 1}), 1),
    ],
    ids=["right", "applied twice", "lost", "foreign", "lower rank", "delivery of nothing", "counts"],
)
def test_the_log_is_judged(logged: Logged, violations: int) -> None:
    """Each receipt once, the highest rank, and counts that agree."""
    checks = Checks()
    judge_log(checks, TOLD, logged)
    assert len(checks.violations) == violations


@pytest.mark.parametrize(
    ("found", "violations"),
    [
        ({"b:0:email": {"all"}, "b:1:email": set[str]()}, 0),
        ({"b:0:email": set[str](), "b:1:email": set[str]()}, 1),
        ({"b:0:email": {"all"}, "b:1:email": {"all"}}, 1),
        ({"b:0:email": {"all", "marketing"}, "b:1:email": set[str]()}, 1),
    ],
    ids=["right", "missing", "a stranger's", "another scope"],
)
def test_suppressions_are_judged(found: dict[str, set[str]], violations: int) -> None:
    """Exactly those that a trusted receipt names, in their scope."""
    checks = Checks()
    judge_suppressions(checks, TOLD, found)
    assert len(checks.violations) == violations


def test_a_forged_bounce_suppresses_nobody() -> None:
    """A suppression that only an untrusted receipt explains is a violation."""
    checks = Checks()
    forged = Receipt("bounced", "mail", 2.0, "b:0:email", severity="hard")
    judge_suppressions(checks, {"b:0:email": [forged]}, {"b:0:email": {"all"}})
    assert len(checks.violations) == 1
