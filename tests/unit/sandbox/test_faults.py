"""Faults that are set for a time or for a number of messages."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.sandbox.faults import Fault, Faults
from shared.smtp.session import Verdict
from tests.clocks import HandClock


def test_a_fault_ends_by_count() -> None:
    """It applies to two messages and not to the third."""
    faults = Faults(HandClock())
    faults.set(Fault("email", "451 4.3.0 no", times=2))
    assert [faults.take("email") is not None for _ in range(3)] == [True, True, False]
    assert faults.now() == []


def test_a_fault_ends_by_time() -> None:
    """It ends after its seconds, whether it was used or not."""
    clock = HandClock()
    faults = Faults(clock)
    faults.set(Fault("whatsapp", "131016", seconds=3))
    assert faults.take("whatsapp")
    clock.now += 3
    assert faults.take("whatsapp") is None


def test_a_fault_affects_only_its_channel_and_stage() -> None:
    """A fault at MAIL FROM does not affect RCPT TO, whole messages or WhatsApp, and they do not use it up."""
    faults = Faults(HandClock())
    faults.set(Fault("email", "421 4.7.0 busy", times=1, at="mail"))
    assert faults.take("whatsapp") is None
    assert faults.take("email") is None
    assert faults.take("email", "rcpt") is None
    assert faults.take("email", "mail")


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (Fault("email", "slow", delay_ms=1500), Verdict(delay_s=1.5)),
        (Fault("email", "hang"), Verdict(answered=False)),
        (Fault("email", "drop", record=False), Verdict(accepted=False, answered=False, closed=True)),
        (Fault("email", "550 5.7.1 spam"), Verdict("550 5.7.1 spam", accepted=False)),
    ],
)
def test_each_kind_of_fault_has_its_outcome(fault: Fault, verdict: Verdict) -> None:
    """slow and hang accept, a reply refuses, and drop accepts unless `record` is false."""
    assert fault.problem() == ""
    assert fault.verdict() == verdict


@pytest.mark.parametrize(
    "wanted",
    [
        {"channel": "email", "answer": "250 ok"},
        {"channel": "email", "answer": "450 a\r\n250 b"},
        {"channel": "email", "answer": "hang", "at": "rcpt"},
        {"channel": "whatsapp", "answer": "refuse"},
        {"channel": "whatsapp", "answer": "999999"},
        {"channel": "whatsapp", "answer": "http 429", "retryAfter": "1\r\nX: y"},
    ],
)
def test_impossible_faults_are_named(wanted: dict[str, Any]) -> None:
    """An answer that no provider of the channel could give is refused with a reason."""
    assert msgspec.convert(wanted, Fault).problem()
