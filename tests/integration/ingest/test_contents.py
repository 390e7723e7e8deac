"""What one message says: rendered while the queue or the log still has what it is made from, else honestly not."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.blasts import pack_blast
from shared.jobs import pack_job
from tests.integration.ingest.provocations import NEVER
from tests.integration.ingest.running import Api, Peers, person
from tests.unit.logger.database import blast, job

HOSTILE = '<script>alert(1)</script> "quoted" \u202edenrut\u202c'
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
LETTER = {"success": True, "job": base64.b64encode(pack_job(job())).decode()}


async def accept(api: Api, **head: Any) -> str:
    """Accept a blast that nobody sends, and return its id."""
    return str((await api.blast(person(7, name=HOSTILE), **head)).body["blastId"])


async def content(api: Api, job_id: str) -> dict[str, Any]:
    found = await api.get(f"/api/messages/{job_id}/content")
    assert found.status == 200, found.text
    body: dict[str, Any] = found.body
    return body


def logged(peers: Peers, job_id: str, status: str) -> None:
    """Let the log have a message with this status."""
    peers.answers[f"GET /api/messages/{job_id}"] = (200, {"success": True, "message": {"status": status}})


@pytest.mark.parametrize("terms", [{}, {"priority": 0}, {"priority": 2}, {"scheduledAt": TOMORROW}])
async def test_a_waiting_mail_is_rendered_as_its_sender_will(api: Api, terms: dict[str, Any]) -> None:
    """From whatever place of the queue: markup in a name is escaped in the html, and the code is never shown."""
    files = [{"filename": "terms.pdf", "contentType": "application/pdf", "content": "JVBERg=="}]
    blast_id = await accept(api, attachments=files, **terms)
    found = await content(api, f"{blast_id}:0:email")
    assert found["kept"] is True
    assert found["content"]["subject"] == "*** is your code"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found["content"]["html"]
    assert f"Hello {HOSTILE}," in found["content"]["text"]
    assert found["attachments"] == [{"filename": "terms.pdf", "contentType": "application/pdf", "size": 4}]
    assert "1007" not in str(found)


async def test_a_waiting_whatsapp_message_is_its_components(api: Api) -> None:
    """With the values of its variables in their places."""
    asked = {"templateId": "welcome", "channels": ["whatsapp"]}
    sent = await api.blast(person(3, variables={"start_url": "https://example.com/s"}), **asked)
    found = await content(api, f"{sent.body['blastId']}:0:whatsapp")
    assert found["content"]["channel"] == "whatsapp"
    assert "Person 3" in str(found["content"]["components"])


async def test_a_failed_message_is_rendered_from_its_dead_letter(api: Api, peers: Peers) -> None:
    """The logger has the job and the snapshot, when Redis has neither."""
    logged(peers, "b:0:email", "failed")
    letter = LETTER | {"blast": base64.b64encode(pack_blast(blast())).decode()}
    peers.answers["GET /internal/messages/b:0:email/letter"] = (200, letter)
    found = await content(api, "b:0:email")
    assert found["content"] == {"channel": "email", "subject": "s", "html": "", "text": "x"}


@pytest.mark.parametrize(
    ("status", "letter", "words"),
    [
        ("sent", None, "not kept once the provider has accepted it"),
        ("cancelled", None, "never sent"),
        ("failed", None, "no longer has"),
        ("failed", {"job": "AA==", "blast": "AA=="}, "a later version"),
        ("processing", None, "has just left the queue"),
    ],
)
async def test_what_is_not_kept_is_said(
    api: Api, peers: Peers, status: str, letter: dict[str, str] | None, words: str
) -> None:
    """No content is made up: the answer says why nothing is shown."""
    logged(peers, "b:0:email", status)
    if letter is not None:
        peers.answers["GET /internal/messages/b:0:email/letter"] = (200, {"success": True, **letter})
    found = await content(api, "b:0:email")
    assert (found["kept"], "content" in found) == (False, False)
    assert words in found["reason"]


async def test_an_unknown_message_has_no_content(api: Api) -> None:
    """It is 404, as the message itself is."""
    assert (await api.get(f"/api/messages/{NEVER}:0:email/content")).body["code"] == "JOB_NOT_FOUND"
    assert (await api.get("/api/messages/nothing/content")).body["code"] == "JOB_NOT_FOUND"
