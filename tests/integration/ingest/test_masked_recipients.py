"""A key with `read-masked` sees no recipient, in whatever it reads; other keys see what they saw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from services.ingest.api.operations import OPERATIONS
from tests.integration.ingest.conftest import MASKED_KEY, READ_KEY, StartIngest
from tests.integration.ingest.provocations import NEVER
from tests.integration.ingest.running import Api, RunningIngest, open_api, person

ADDRESS, NUMBER = "siti.r@example.com", "6281224770000"
JOB = f"{NEVER}:0:email"
WORDS = f"550 <{ADDRESS}> is unknown, call +62 812-2477-0000"
ROW = {
    "job_id": JOB, "channel": "email", "status": "failed", "recipient_email": ADDRESS, "recipient_phone": NUMBER,
    "recipient_name": "Siti R", "subject": f"For {ADDRESS}", "error_message": WORDS, "message_id": "wamid.HBgNNjI4",
    "reference": NUMBER, "history": [{"response": WORDS}], "receipts": [{"address": ADDRESS, "words": WORDS}],
    "timeline": [{"detail": WORDS}],
}  # fmt: skip
REQUEST = {
    "endpoint": f"/api/suppressions/{ADDRESS}", "request_body": f"recipient={ADDRESS[:4]}", "error_message": WORDS,
}  # fmt: skip
BLAST: dict[str, Any] = {
    "blastId": NEVER, "state": "completed", "templateId": "t", "templateName": "T", "channels": {}, "counts": {},
    "totalRecipients": 1, "totalMessages": 1, "progress": 1.0, "priority": 1, "reference": ADDRESS,
    "metadata": {"who": WORDS},
}  # fmt: skip
GROUP = {"channel": "email", "errorClass": "permanent", "errorCode": "5.1.1", "count": 1, "example": WORDS}
LOGGER: dict[str, dict[str, Any]] = {
    f"/api/messages/{JOB}": {"message": ROW},
    "/api/logs/messages": {"logs": [ROW] * 200, "nextCursor": None},
    "/api/logs/messages/stats": {"stats": {"total": 1}},
    "/api/logs/api": {"logs": [REQUEST], "nextCursor": None},
    "/api/logs/system": {"logs": [{"message": WORDS, "metadata": json.dumps({"to": ADDRESS})}], "nextCursor": None},
    "/api/dashboard": {"dashboard": {"recentFailures": [ROW]}},
    "/api/blasts": {"blasts": [BLAST], "nextCursor": None},
    f"/api/blasts/{NEVER}": {"blast": BLAST},
    f"/api/blasts/{NEVER}/failures": {"failures": [GROUP], "complete": True},
}
# every call that reads, with what it is asked for; those without recipients are named too
ASKED = {
    "/messages/stats": "", "/messages/{jobId}": JOB, "/messages/{jobId}/content": JOB, "/blasts": "",
    "/blasts/{id}": NEVER, "/blasts/{id}/failures": NEVER, "/channels": "", "/suppressions": "",
    "/suppressions/{id}": "", "/logs/messages": "", "/logs/messages/stats": "", "/logs/api": "", "/logs/system": "",
    "/dashboard": "", "/events": "", "/webhooks": "", "/webhooks/{id}": "", "/webhooks/{id}/deliveries": "",
    "/smtp/status": "", "/whatsapp/status": "",
}  # fmt: skip


@pytest.fixture
async def ingest(redis: Redis, start_ingest: StartIngest) -> AsyncIterator[RunningIngest]:
    """An ingest with keys, whose logger names a recipient in every answer."""
    assert await redis.ping()
    found = start_ingest("console")
    found.peers.reset()
    found.peers.answers |= {f"GET {path}": (200, {"success": True, **body}) for path, body in LOGGER.items()}
    yield found
    found.peers.reset()


@pytest.fixture
async def api(ingest: RunningIngest) -> AsyncIterator[Api]:
    async with AsyncExitStack() as stack:
        yield await open_api(stack, ingest.url)


def key(text: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {text}"}}


def names_somebody(text: str) -> bool:
    return any(one in text for one in ("siti.r", "Siti", "224770000", "2477-0000", "HBgNNjI4"))


async def suppress(api: Api) -> str:
    """Suppress both addresses and return the id of the first."""
    ids = []
    for channel, address in (("email", ADDRESS), ("whatsapp", f"+{NUMBER}")):
        body = {"channel": channel, "address": address, "reason": WORDS, "evidence": {"words": WORDS}}
        ids.append((await api.post("/api/suppressions", body, **key(f"chief-{MASKED_KEY}"))).body["suppression"]["id"])
    return str(ids[0])


def test_every_call_that_reads_is_considered() -> None:
    """A new one must be named here, or declare that its answer has no recipients."""
    reading = {one.path for one in OPERATIONS if one.method == "GET" and not one.rooted and not one.nameless}
    assert reading == ASKED.keys()


async def test_no_answer_names_a_recipient(api: Api, ingest: RunningIngest) -> None:
    """The same call names it to a key with `read`, and not to one with `read-masked`."""
    known = await suppress(api)
    paths = [f"/api{path.format(jobId=one, id=one)}" for path, one in ASKED.items() if one or "{" not in path]
    paths += [f"/api/suppressions/{known}", "/api/suppressions?format=csv", "/api/suppressions?format=ndjson"]
    naming = 0
    for path in [one for one in paths if one != "/api/events"]:
        seen, hidden = await api.get(path, **key(READ_KEY)), await api.get(path, **key(MASKED_KEY))
        assert seen.status == hidden.status, (path, hidden.text)
        naming += names_somebody(seen.text)
        assert not names_somebody(hidden.text), (path, hidden.text)
    assert naming >= 12
    row = (await api.get(f"/api/messages/{JOB}", **key(MASKED_KEY))).body["message"]
    assert (row["recipient_email"], row["recipient_phone"], row["job_id"]) == ("s***@example.com", "***00", JOB)
    queries = {query for call, query, _ in ingest.peers.asked if call == "GET /api/logs/messages"}
    assert queries == {"", "masked=1"}


async def test_recipients_cannot_be_searched_for_by_their_beginning(api: Api, ingest: RunningIngest) -> None:
    """That would spell them out letter by letter; a client that knows a whole address may ask for it."""
    await suppress(api)
    for text, found in (("siti.r@example.com", 1), ("siti", 0), ("example.com", 0)):
        shown = await api.get(f"/api/suppressions?address={text}", **key(MASKED_KEY))
        assert len(shown.body["suppressions"]) == found
    assert len((await api.get("/api/suppressions?address=siti", **key(READ_KEY))).body["suppressions"]) == 1
    ingest.peers.answers["POST /internal/retry-matching"] = (200, {"matched": 0, "complete": True})
    await api.post("/api/messages/retry?recipient=siti", {}, **key(MASKED_KEY))
    assert ("POST /internal/retry-matching", "recipient=siti&masked=1") in {one[:2] for one in ingest.peers.asked}
    assert (await api.get("/api/logs/messages?masked=0", **key(MASKED_KEY))).body["code"] == "INVALID_QUERY"


async def test_live_events_are_masked_too(api: Api) -> None:
    """The stream of a masked key names nobody; the times and counts in it are those of the others."""
    await api.blast(person(1, reference="x"), reference=f"for {ADDRESS}", **key(MASKED_KEY))
    texts = [await _events(api, one) for one in (READ_KEY, MASKED_KEY)]
    assert [names_somebody(text) for text in texts] == [True, False]
    assert json.loads(texts[1].partition("data: ")[2].partition("\n")[0])["channels"]


async def _events(api: Api, text: str) -> str:
    """Return what a stream says until it has shown the state, and one event after it."""
    said = b""
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession() as http,
        http.get(f"{api.url}/api/events", **key(text)) as answer,
    ):
        while said.count(b"data: ") < 2 or not said.endswith(b"\n\n"):
            said += await answer.content.readany()
    return said.decode()


async def test_the_session_of_a_masked_key_names_its_scope(api: Api) -> None:
    """The console's session names the scope, and the text of a message is not shown."""
    session = await api.post("/console/session", {"apiKey": MASKED_KEY}, headers={"Sec-Fetch-Site": "same-origin"})
    assert session.body["scopes"] == ["send", "read-masked"]
    content = (await api.get(f"/api/messages/{JOB}/content", **key(MASKED_KEY))).body
    assert (content["kept"], "may not see" in content["reason"]) == (False, True)
