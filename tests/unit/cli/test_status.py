"""What `kurir status`, `kurir message` and `kurir logs` show of receipts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cli.test_api_client import Api, run

NOTHING = {"delivered": 0, "read": 0, "undelivered": 0, "bounced": 0, "complained": 0}
REPORTED = {**NOTHING, "delivered": 95, "bounced": 2}
BLAST: dict[str, Any] = {
    "blastId": "b1", "state": "completed", "templateId": "reminder", "totalMessages": 100, "progress": 1.0,
    "counts": {"sent": 100}, "delivery": REPORTED, "createdAt": "2026-01-31T12:00:00.000Z",
    "channels": {"email": {"total": 100, "counts": {"sent": 100}, "delivery": REPORTED}},
}  # fmt: skip
MESSAGE = {
    "job_id": "b1:0:email", "status": "sent", "delivery": {"status": "bounced", "at": "2026-01-31T12:00:05.000Z"},
    "receipts": [{"kind": "bounced", "source": "ses", "words": "550 5.1.1 no such user"}],
}  # fmt: skip


def said(api: Api, path: str, answer: dict[str, Any], *words: str) -> str:
    """Run a command against an answer and return what it prints."""
    api.on(path, answer)
    done = run(*words, "--url", api.url)
    assert done.exit_code == 0, done.output
    return str(done.output)


def test_a_blast_shows_its_receipts_by_channel(api: Api) -> None:
    """Only the kinds that occur are shown."""
    shown = said(api, "/api/v1/blasts/b1", {"blast": BLAST}, "status", "b1")
    assert "95 delivered, 2 bounced" in shown
    assert "complained" not in shown


@pytest.mark.parametrize("delivery", [NOTHING, None])
def test_a_blast_without_receipts_shows_none(api: Api, delivery: dict[str, int] | None) -> None:
    """So does one whose receipts the log could not say."""
    channels = {"email": {**BLAST["channels"]["email"], "delivery": delivery}}
    shown = said(api, "/api/v1/blasts/b1", {"blast": {**BLAST, "channels": channels}}, "status", "b1")
    assert "delivered" not in shown


def test_the_list_of_blasts_has_a_column_for_receipts(api: Api) -> None:
    """Beside what was sent and failed."""
    api.on("/api/v1/messages/stats", {"stats": {"channels": {}}})
    shown = said(api, "/api/v1/blasts", {"blasts": [BLAST], "nextCursor": None}, "status")
    assert "95 delivered, 2 bounced" in shown


def test_a_message_shows_its_delivery_and_each_receipt(api: Api) -> None:
    """With the provider's words."""
    shown = said(api, "/api/v1/messages/b1:0:email", {"message": MESSAGE}, "message", "b1:0:email")
    assert "delivery: status bounced, at 2026-01-31T12:00:05.000Z" in shown
    assert "receipts 1" in shown
    assert "words: 550 5.1.1 no such user" in shown


def test_the_log_is_filtered_by_delivery(api: Api) -> None:
    """The option is passed on, and the table has the column."""
    row = {"updated_at": "t", "job_id": "b1:0:email", "status": "sent", "delivery": "bounced", "attempts": 1}
    answer = {"logs": [row], "nextCursor": None}
    shown = said(api, "/api/v1/logs/messages", answer, "logs", "--delivery", "bounced,complained")
    assert "bounced" in shown
    assert any(
        "delivery=bounced%2Ccomplained" in path or "delivery=bounced,complained" in path for path, _, _ in api.asked
    )
