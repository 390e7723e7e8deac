"""`kurir failures`, `retry-matching` and `message --content`: what they ask the API for, and what they print."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.cli.test_api_client import Api, run

FAILURES = "/api/v1/blasts/b1/failures"
RETRY = "/api/v1/messages/retry"
CONTENT = "/api/v1/messages/b1:0:email/content"
GROUP = {
    "channel": "email", "errorClass": "permanent", "errorCode": "550 5.1.1", "count": 12, "example": "no [such] user",
}  # fmt: skip


def said(api: Api, path: str, answer: dict[str, Any], *words: str) -> str:
    """Run a command against an answer and return what it prints."""
    api.on(path, {"success": True, **answer})
    done = run(*words, "--url", api.url)
    assert done.exit_code == 0, done.output
    return str(done.output)


def test_failures_are_shown_by_reason(api: Api) -> None:
    """With their count, the provider's words as they are, and how to send one group again."""
    shown = said(api, FAILURES, {"failures": [GROUP], "complete": False}, "failures", "b1")
    assert all(one in shown for one in ("12", "permanent", "550 5.1.1", "no [such] user", "kurir retry b1 --channel"))
    assert "there are more" in shown
    assert said(api, FAILURES, {"failures": [], "complete": True}, "failures", "b1") == "no message has failed\n"
    assert json.loads(said(api, FAILURES, {"failures": [GROUP]}, "failures", "b1", "--json"))["failures"] == [GROUP]


def test_what_matches_is_counted_first(api: Api) -> None:
    """Only the filters that were given are asked for; the answer says what confirms them."""
    answer = {"matched": 7, "complete": True, "reopened": 0, "skipped": 0}
    shown = said(api, RETRY, answer, "retry-matching", "--blast", "b1", "--error-class", "transient")
    assert shown == "7 failed messages match; to send them again: --confirm 7\n"
    path, _, body = api.asked[-1]
    assert path == f"{RETRY}?blast=b1&error_class=transient"
    assert json.loads(body) == {"confirm": None, "includeUncertain": False}


def test_what_matches_is_sent_again_once_confirmed(api: Api) -> None:
    """It reports how many were queued, and how many were left out."""
    answer = {"matched": 7, "complete": True, "reopened": 6, "skipped": 1}
    words = ("retry-matching", "--from", "2026-11-29T10:00:00+07:00", "--confirm", "7", "--include-uncertain")
    assert said(api, RETRY, answer, *words) == "6 messages are queued again, 1 left out\n"
    path, _, body = api.asked[-1]
    # an unescaped "+" would arrive as a space
    assert path.partition("?")[2] in {"from=2026-11-29T10:00:00%2B07:00", "from=2026-11-29T10%3A00%3A00%2B07%3A00"}
    assert json.loads(body) == {"confirm": 7, "includeUncertain": True}


def test_the_content_of_a_message_is_shown(api: Api) -> None:
    """The mail's parts as they are; or why nothing is kept."""
    mail = {"channel": "email", "subject": "Hello [bold]", "html": "<p>x</p>", "text": "x"}
    words = ("message", "b1:0:email", "--content")
    assert "subject: Hello [bold]\n" in said(api, CONTENT, {"kept": True, "content": mail}, *words)
    assert said(api, CONTENT, {"kept": False, "reason": "not kept"}, *words) == "reason: not kept\n"
