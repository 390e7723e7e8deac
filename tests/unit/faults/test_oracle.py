"""The oracle of the fault tests finds the violations that it must find."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.checks import Checks
from tests.faults.client import Posted, people
from tests.faults.deliveries import Delivery
from tests.faults.oracle import Oracle
from tests.faults.proxies import MailProxy, Pair


def posted(count: int = 1) -> Posted:
    one = Posted("key", ["email"], people(count, "checked"))
    one.blast_id, one.total = "b", count
    return one


def row(status: str, error_class: str = "", index: int = 0) -> dict[str, Any]:
    return {
        "job_id": f"b:{index}:email", "status": status, "error_class": error_class, "run": 1,
        "recipient_email": "checked@example.com",
    }  # fmt: skip


def delivery(at: float, job_id: str = "b:0:email") -> Delivery:
    return Delivery("email", "checked@example.com", job_id, "<m>", at)


def make_oracle(*every: Posted) -> Oracle:
    world: Any = SimpleNamespace(
        client=SimpleNamespace(posted=list(every)), deliveries=SimpleNamespace(nameless=[]), mails={}
    )
    return Oracle(world, Checks())


@pytest.mark.parametrize(
    ("status", "error_class", "is_fine"),
    [
        ("cancelled", "cancelled", False),
        ("expired", "expired", False),
        ("suppressed", "suppressed", False),
        ("failed", "lost", False),
        ("failed", "blast_gone", False),
        ("failed", "undecodable", False),
        ("failed", "permanent", True),
        ("sent", "", True),
    ],
)
def test_an_end_without_a_cause_is_a_violation(status: str, error_class: str, is_fine: bool) -> None:
    """Nobody cancelled it, it had no end, its address was good, and it must not vanish."""
    oracle = make_oracle()
    oracle.check_causes(posted(), [row(status, error_class)])
    assert (not oracle.checks.violations) == is_fine


def test_a_requested_end_is_not_a_violation() -> None:
    """A cancellation explains what is cancelled, an end what is expired, a bounce what is suppressed."""
    oracle, one = make_oracle(), posted()
    one.cancelled_at, one.expires_at = math.inf, 1.0
    bounced = {**row("suppressed"), "recipient_email": "bounce+x@example.com"}
    oracle.check_causes(one, [row("cancelled"), row("expired"), bounced])
    assert not oracle.checks.violations


@pytest.mark.parametrize(("at", "granted", "is_fine"), [(110.0, 0, True), (120.0, 0, False), (120.0, 1, True)])
def test_a_message_sent_after_its_cancellation_is_a_violation(at: float, granted: int, is_fine: bool) -> None:
    """What was in mid-send then may finish; a frozen sender may finish later."""
    oracle, one = make_oracle(), posted()
    one.cancelled_at = 100.0
    oracle.check_times(one, [row("sent")], {"b:0:email": [delivery(at)]}, Counter({"b:0:email": granted}))
    assert (not oracle.checks.violations) == is_fine


def test_a_message_without_a_request_is_a_violation() -> None:
    """A repeated request must not make a second blast."""
    oracle = make_oracle(posted())
    oracle.check_promises({"b:0:email": [delivery(1.0)], "c:0:email": [delivery(1.0, "c:0:email")]})
    assert [guarantee for guarantee, _ in oracle.checks.violations] == ["G2"]


async def test_a_recipient_that_was_refused_has_no_answer_to_lose() -> None:
    """The next message over the same connection is not granted to it."""
    proxy, pair = MailProxy(0), Pair(None, None)  # type: ignore[arg-type]  # nothing is written
    for data in (b"MAIL FROM:<k@x>\r\n", b"RCPT TO:<refused@x>\r\n", b"RSET\r\n", b"MAIL FROM:<k@x>\r\n"):
        await proxy.from_client(pair, data)
    for data in (b"RCPT TO:<taken@x>\r\n", b"DATA\r\n", b"Hello\r\n.\r\n"):
        await proxy.from_client(pair, data)
    assert pair.unanswered == ["taken@x"]


@pytest.mark.parametrize("again", [[b"RSET\r\n"], [b"RSET\r\nMAIL FROM:<k@x>\r\nRCPT TO:<taken@x>\r\nDATA\r\n"], []])
async def test_the_message_after_an_early_refusal_is_identified(again: list[bytes]) -> None:
    """DATA was in the same write as the recipient that was refused, so no content follows it."""
    proxy, pair = MailProxy(0), Pair(None, None)  # type: ignore[arg-type]  # nothing is written
    await proxy.from_client(pair, b"MAIL FROM:<k@x>\r\nRCPT TO:<refused@x>\r\nDATA\r\n")
    for data in again:
        await proxy.from_client(pair, data)
    if pair.recipients != ["taken@x"]:
        await proxy.from_client(pair, b"MAIL FROM:<k@x>\r\nRCPT TO:<taken@x>\r\nDATA\r\n")
    await proxy.from_client(pair, b"Hello\r\n.\r\nMAIL FROM:<k@x>\r\nRCPT TO:<next@x>\r\nDATA\r\n")
    assert (pair.unanswered, pair.recipients, pair.in_data) == (["taken@x"], ["next@x"], True)
