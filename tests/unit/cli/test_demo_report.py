"""The demo's arithmetic: which numbers add up, and which do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.cli.demo import up_command
from services.cli.demo_report import (
    Expected,
    LiveCounts,
    count_rows,
    find_mistakes,
    read_expected,
    reported_of,
)
from services.cli.plan import UpOptions
from services.cli.progress import reason_of

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "recipients.csv"
_EXPECTED = {"email": Expected(3, 1), "whatsapp": Expected(0, 0)}


def _row(status: str, address: str = "siti@example.com", **changes: Any) -> dict[str, Any]:
    reason = {"failed": "550 5.1.1 no such user"}.get(status)
    row = {"channel": "email", "status": status, "attempts": 1, "error_message": reason, "delivery": None}
    return {**row, "recipient_email": address, "recipient_phone": None, **changes}


def _rows(*statuses: str, attempts: int = 1) -> list[dict[str, Any]]:
    return [_row(status, attempts=attempts) for status in statuses]


def _mistakes(
    statuses: dict[str, int], rows: list[dict[str, Any]], delivery: dict[str, int] | None = None
) -> list[str]:
    live = {"email": LiveCounts(statuses, delivery or {}), "whatsapp": LiveCounts({}, {})}
    return find_mistakes(_EXPECTED, live, count_rows(rows))


def test_the_example_has_a_thousand_recipients_on_each_channel() -> None:
    """The file has 1,000 rows; 4 bounces and 2 drops by email and 2 error codes by WhatsApp fail permanently."""
    assert read_expected(EXAMPLE) == {"email": Expected(1000, 6), "whatsapp": Expected(1000, 2)}


def test_numbers_that_agree_have_no_problems() -> None:
    """Two messages are sent and one is refused, in both the queue and the log."""
    assert _mistakes({"sent": 2, "failed": 1, "queued": 0}, _rows("sent", "sent", "failed")) == []


def test_a_suppressed_message_counts_as_refused() -> None:
    """The second demo on the same data finds the bounced addresses suppressed."""
    assert _mistakes({"sent": 2, "suppressed": 1}, _rows("sent", "sent", "suppressed")) == []


def test_an_address_that_bounced_later_is_suppressed_in_the_next_run() -> None:
    """It is sent to in the first demo, and in the second one it is missing among the sent."""
    rows = [*_rows("sent", "failed"), _row("suppressed", "late-bounce+1@example.com")]
    assert _mistakes({"sent": 1, "failed": 1, "suppressed": 1}, rows) == []


def test_a_lost_message_is_reported() -> None:
    """One message less than expected is reported, with both numbers."""
    mistakes = _mistakes({"sent": 1, "failed": 1}, _rows("sent", "failed"))
    assert mistakes == ["email: 2 of 3 messages ended", "email: 1 sent instead of 2"]


def test_an_unexpected_failure_is_reported() -> None:
    """Every message ended, but one that should have been sent was not."""
    mistakes = _mistakes({"sent": 1, "failed": 2}, _rows("sent", "failed", "failed"))
    assert mistakes == ["email: 1 sent instead of 2"]


def test_a_log_that_disagrees_is_reported() -> None:
    """The queue counts a message as sent, but the log shows it as processing."""
    (mistake,) = _mistakes({"sent": 2, "failed": 1}, _rows("sent", "processing", "failed"))
    assert "the log says {'sent': 1, 'processing': 1, 'failed': 1}" in mistake


@pytest.mark.parametrize(
    ("channel", "address", "kind"),
    [
        ("email", "late-bounce@example.com", "bounced"),
        ("email", "late-bounce+17@example.com", "bounced"),
        ("email", "complaint+1@example.com", "complained"),
        ("email", "siti@example.com", ""),
        ("email", "a.late-bounce@example.com", ""),
        ("whatsapp", "+6281234567891", "read"),
        ("whatsapp", "6281234567890", "delivered"),
        ("whatsapp", "62812131026", "undelivered"),
        ("whatsapp", "62812131000", "delivered"),
    ],
)
def test_what_is_due_follows_from_the_address(channel: str, address: str, kind: str) -> None:
    """As the sandbox documents; a message that is refused at once never gets that far."""
    assert reported_of(channel, address) == kind


_RETURNED = [
    _row("sent", "late-bounce@example.com", delivery="bounced"),
    _row("sent", "complaint@example.com", delivery="complained"),
    _row("failed"),
]


def test_receipts_that_agree_have_no_mistakes() -> None:
    """The blast and the rows of the log both count a bounce and a complaint."""
    assert _mistakes({"sent": 2, "failed": 1}, _RETURNED, {"bounced": 1, "complained": 1, "read": 0}) == []


@pytest.mark.parametrize(
    ("delivery", "rows", "who"),
    [
        ({"bounced": 1}, _RETURNED, "the blast"),
        ({"bounced": 2, "complained": 1}, _RETURNED, "the blast"),
        (
            {"bounced": 1, "complained": 1},
            [_RETURNED[0], _row("sent", "complaint@example.com"), _row("failed")],
            "the log",
        ),
    ],
)
def test_a_receipt_that_is_missing_or_too_many_is_a_mistake(
    delivery: dict[str, int], rows: list[dict[str, Any]], who: str
) -> None:
    """The one that is wrong is named, with both numbers."""
    (mistake,) = _mistakes({"sent": 2, "failed": 1}, rows, delivery)
    assert mistake.startswith(f"email: {who} says {{")
    assert "instead of {'bounced': 1, 'complained': 1}" in mistake


def test_retries_and_reasons_are_counted() -> None:
    """More than one attempt is a retry, sent or not; reasons are grouped."""
    report = count_rows([*_rows("sent", attempts=3), *_rows("failed", "failed"), *_rows("sent")])["email"]
    assert report.retried == 1
    assert report.reasons == {"550 5.1.1 no such user": 2}
    assert report.total == 4


def test_the_reason_of_a_json_answer_is_its_message() -> None:
    """Ids that differ from answer to answer do not make different reasons."""
    words = '{"error": {"message": "(#131026) Message undeliverable", "fbtrace_id": "x"}}'
    assert reason_of({"error_message": words, "status": "failed"}) == "(#131026) Message undeliverable"
    assert reason_of({"error_message": '{"error": {"mess', "status": "failed"}) == '{"error": {"mess'
    assert reason_of({"error_message": None, "status": "cancelled"}) == "cancelled"


def test_the_next_command_can_be_typed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `make demo` no `kurir` is on PATH, and another port needs its option."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", [".venv/bin/kurir", "demo"])
    assert up_command(UpOptions()) == ".venv/bin/kurir up"
    moved = UpOptions(port=4000, data_dir=Path("my data"))
    assert up_command(moved) == ".venv/bin/kurir up --port 4000 --data-dir 'my data'"
