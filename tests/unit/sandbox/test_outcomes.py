"""The sandbox's answers by address."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from services.cli.demo_report import read_expected, reported_of
from services.sandbox.outcomes import (
    ACCEPT,
    MailOutcomes,
    refusal_of_recipient,
    simulated_part,
    whatsapp_error_of,
)
from services.sandbox.returned_mail import returned_mail
from services.sandbox.statuses import LATE_ERRORS, Accepted, Status, StatusPlan
from shared.smtp.session import Verdict

RECIPIENTS = Path(__file__).resolve().parents[3] / "examples" / "recipients.csv"


@pytest.mark.parametrize("address", ["bounce@example.com", "Bounce+17@example.com", '"bounce"@example.com'])
def test_bounce_is_refused_as_a_recipient(address: str) -> None:
    """The part before `+` counts, in any case."""
    assert refusal_of_recipient(address).startswith("550 5.1.1 ")


@pytest.mark.parametrize("address", ["bouncer@example.com", "b@bounce.com", "x+bounce@example.com"])
def test_similar_addresses_do_not_bounce(address: str) -> None:
    """A longer name, the domain, and the part after `+` do not count."""
    assert refusal_of_recipient(address) == ""


def test_greylist_refuses_each_message_once() -> None:
    """Each job is refused once, then accepted; a job that is sent again later is greylisted again."""
    outcomes = MailOutcomes()
    for job in ("b:1:email", "b:2:email", "b:1:email"):
        first, second = (outcomes.verdict(["greylist@example.com"], job) for _ in range(2))
        assert first == Verdict("450 4.7.1 try again in 2 seconds", accepted=False)
        assert second is ACCEPT


def test_flaky_refuses_two_attempts() -> None:
    """Refusals are counted per job, even if the attempts of jobs to one address interleave."""
    outcomes = MailOutcomes()
    replies = [outcomes.verdict(["flaky+3@example.com"], job).reply[:9] for job in ("a", "b") * 3]
    assert replies == ["451 4.3.0"] * 4 + [""] * 2


def test_slow_and_drop() -> None:
    """slow@ is accepted and answered late; drop@ is neither accepted nor answered."""
    outcomes = MailOutcomes(slow_s=10.0)
    assert outcomes.verdict(["slow@example.com"], "") == Verdict(delay_s=10.0)
    assert outcomes.verdict(["drop@example.com"], "") == Verdict(accepted=False, answered=False, closed=True)


@pytest.mark.parametrize(("phone", "code"), [("62812131026", 131026), ("6281299999", 0), ("628123000004", 0), ("1", 0)])
def test_phone_numbers_that_end_in_an_error_code(phone: str, code: int) -> None:
    """Only the last six digits count, and only if they are a WhatsApp error code."""
    assert whatsapp_error_of(phone) == code


def test_the_demo_expects_what_the_sandbox_does() -> None:
    """`kurir demo` expects a final refusal for exactly the recipients that the sandbox refuses on every attempt."""
    outcomes, refused = MailOutcomes(), {"email": 0, "whatsapp": 0}
    with RECIPIENTS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            address = row["email"]
            taken = not refusal_of_recipient(address) and any(
                outcomes.verdict([address], address).accepted for _ in range(3)
            )
            refused["email"] += not taken
            refused["whatsapp"] += whatsapp_error_of(row["phone"]) not in {0, *LATE_ERRORS}
    assert refused == {name: expected.refused for name, expected in read_expected(RECIPIENTS).items()}
    assert sum(refused.values()) > 0


def test_the_demo_expects_what_the_sandbox_reports() -> None:
    """For every recipient that is not refused: the status of the highest rank, and the mail that comes back."""
    rank = {"failed": ("undelivered", 1), "delivered": ("delivered", 2), "read": ("read", 3)}
    back = {"bounce": "bounced", "complaint": "complained"}
    plan, wrong = StatusPlan(1.0), []
    with RECIPIENTS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            mail = returned_mail("b-x@bounces.example.com", row["email"], b"", 0.0)
            if (back[mail.kind] if mail else "") != reported_of("email", row["email"]):
                wrong.append(row["email"])
            events = plan.plan(Accepted("wamid.1", "", row["phone"].removeprefix("+")), 0.0)
            kinds = [rank[one.status] for _, one in events if isinstance(one, Status) and one.status in rank]
            if max(kinds, key=lambda kind: kind[1])[0] != reported_of("whatsapp", row["phone"]):
                wrong.append(row["phone"])
    assert wrong == []


def test_text_that_is_not_an_address_simulates_nothing() -> None:
    """Text without a domain names no simulation."""
    assert simulated_part("bounce") == ""
