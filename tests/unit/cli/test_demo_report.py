"""The demo's arithmetic: which numbers add up, and which do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.cli.demo_report import Expected, count_rows, find_mistakes, read_expected
from services.cli.progress import reason_of

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "recipients.csv"
_EXPECTED = {"email": Expected(3, 1), "whatsapp": Expected(0, 0)}


def _rows(*statuses: str, attempts: int = 1) -> list[dict[str, Any]]:
    reason = {"failed": "550 5.1.1 no such user"}
    return [
        {"channel": "email", "status": status, "attempts": attempts, "error_message": reason.get(status)}
        for status in statuses
    ]


def test_the_example_has_a_thousand_recipients_on_each_channel() -> None:
    """The file has 1,000 rows; 4 bounces and 2 drops by email and 9 error codes by WhatsApp fail permanently."""
    assert read_expected(EXAMPLE) == {"email": Expected(1000, 6), "whatsapp": Expected(1000, 9)}


def test_numbers_that_agree_have_no_problems() -> None:
    """Two messages are sent and one is refused, in both the queue and the log."""
    live = {"email": {"sent": 2, "failed": 1, "queued": 0}, "whatsapp": {}}
    assert find_mistakes(_EXPECTED, live, count_rows(_rows("sent", "sent", "failed"))) == []


def test_a_suppressed_message_counts_as_refused() -> None:
    """The second demo on the same data finds the bounced addresses suppressed."""
    live = {"email": {"sent": 2, "suppressed": 1}}
    assert find_mistakes(_EXPECTED, live, count_rows(_rows("sent", "sent", "suppressed"))) == []


def test_a_lost_message_is_reported() -> None:
    """One message less than expected is reported, with both numbers."""
    live = {"email": {"sent": 1, "failed": 1}}
    mistakes = find_mistakes(_EXPECTED, live, count_rows(_rows("sent", "failed")))
    assert mistakes == ["email: 2 of 3 messages ended", "email: 1 sent instead of 2"]


def test_an_unexpected_failure_is_reported() -> None:
    """Every message ended, but one that should have been sent was not."""
    live = {"email": {"sent": 1, "failed": 2}}
    mistakes = find_mistakes(_EXPECTED, live, count_rows(_rows("sent", "failed", "failed")))
    assert mistakes == ["email: 1 sent instead of 2"]


def test_a_log_that_disagrees_is_reported() -> None:
    """The queue counts a message as sent, but the log shows it as processing."""
    live = {"email": {"sent": 2, "failed": 1}}
    (mistake,) = find_mistakes(_EXPECTED, live, count_rows(_rows("sent", "processing", "failed")))
    assert "the log says {'sent': 1, 'processing': 1, 'failed': 1}" in mistake


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
