"""Provokes each error code: one request, with its preparation, for every code of the table."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

from services.ingest.blasts.request_body import Digest
from services.ingest.http.event_feed import MOST_STREAMS
from services.ingest.storage.idempotency import IdempotencyStore, record_key
from tests.integration.ingest.conftest import BOUND_KEY, READ_KEY, SEND_KEY, StartIngest
from tests.integration.ingest.hook_requests import TOKEN
from tests.integration.ingest.running import Api, Reply, RunningIngest, open_api, person
from tests.integration.queue.world import World
from tests.servers import wait_for

BLAST = "/api/messages/blast"
CSV = {"Content-Type": "text/csv"}
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
NEVER = "0123456789abcdef"
JOB = f"{NEVER}:0:email"


@dataclass
class Setting:
    """What a provocation may use."""

    api: Api
    redis: Redis
    start: StartIngest
    stack: AsyncExitStack

    @property
    def usual(self) -> RunningIngest:
        return self.start("usual")

    async def other(self, kind: str) -> Api:
        return await open_api(self.stack, self.start(kind).url)

    async def ended_blast(self) -> str:
        """Return a blast that was cancelled completely."""
        blast_id = str((await self.api.blast(person())).body["blastId"])
        assert (await self.api.post(f"/api/blasts/{blast_id}/cancel")).status == 200
        return blast_id


Provocation = Callable[[Setting], Awaitable[Reply]]
PROVOCATIONS: dict[str, Provocation] = {}


def provokes(code: str) -> Callable[[Provocation], Provocation]:
    def register(provocation: Provocation) -> Provocation:
        PROVOCATIONS[code] = provocation
        return provocation

    return register


def _simple(code: str, method: str, path: str, **request: Any) -> None:
    async def provoke(at: Setting) -> Reply:
        return await at.api.call(method, path, **request)

    PROVOCATIONS[code] = provoke


def _recipient(code: str, **changes: Any) -> None:
    async def provoke(at: Setting) -> Reply:
        return await at.api.blast(person(1) | changes)

    PROVOCATIONS[code] = provoke


def _head(code: str, **head: Any) -> None:
    async def provoke(at: Setting) -> Reply:
        return await at.api.blast(person(), **head)

    PROVOCATIONS[code] = provoke


def template(**changes: Any) -> dict[str, Any]:
    """Return a valid template."""
    return {"id": "note", "name": "Note", "channels": ["email"], "subject": "Hi {{ name }}", "text": "x"} | changes


def _template(code: str, **changes: Any) -> None:
    _simple(code, "POST", "/api/templates", json=template(**changes))


def _in(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


_simple("MALFORMED_JSON", "POST", BLAST, data=b"{", headers=JSON)
_simple("MALFORMED_NDJSON", "POST", BLAST, data=b"[]\n", headers=NDJSON)
_simple("MALFORMED_CSV", "POST", f"{BLAST}?templateId=otp&channels=email", data=b"\n", headers=CSV)
_simple("MALFORMED_MULTIPART", "POST", BLAST, data=b"x", headers={"Content-Type": "multipart/form-data"})
_simple("MALFORMED_REQUEST", "POST", BLAST, data=b"no gzip", headers=JSON | {"Content-Encoding": "gzip"})
_simple("INVALID_QUERY", "GET", "/api/suppressions?limit=many")
_simple("INVALID_CURSOR", "GET", "/api/suppressions?cursor=x")
_simple("INVALID_TOKEN", "GET", "/u/forged")
_simple("LOOPBACK_ONLY", "GET", "/api/channels", headers={"X-Forwarded-For": "203.0.113.1"})
_simple("NOT_FOUND", "GET", "/api/nothing")
_simple("TEMPLATE_NOT_FOUND", "GET", "/api/templates/nothing")
_simple("BLAST_NOT_FOUND", "GET", f"/api/blasts/{NEVER}")
_simple("JOB_NOT_FOUND", "GET", f"/api/messages/{JOB}")
_simple("CHANNEL_NOT_FOUND", "POST", "/api/channels/pigeon/pause")
_simple("CONFIRMATION_MISMATCH", "POST", "/api/suppressions/lift", json={"channel": "email", "confirm": 5})
_simple("SUPPRESSION_NOT_FOUND", "DELETE", "/api/suppressions/nothing")
_simple("INVALID_URL", "POST", "/api/webhooks", json={"url": "https://10.0.0.1/", "events": ["*"]})
_simple("UNKNOWN_EVENT", "POST", "/api/webhooks", json={"url": "https://example.com/", "events": ["message.send"]})
_simple("INVALID_SECRET", "POST", "/api/webhooks/x/rotate", json={"secret": "hush"})
_simple("METHOD_NOT_ALLOWED", "PUT", BLAST)
_simple("UNSUPPORTED_ENCODING", "POST", BLAST, data=b"{}", headers=JSON | {"Content-Encoding": "snappy"})
_simple("UNSUPPORTED_MEDIA_TYPE", "POST", BLAST, data=b"<blast/>", headers={"Content-Type": "text/xml"})
_recipient("VALIDATION_FAILED", email="no address", variables={})
_simple("REQUIRED", "POST", BLAST, json={"channels": ["email"], "recipients": []})
_recipient("INVALID_TYPE", name=5)
_head("INVALID_VALUE", priority=7)
_recipient("UNKNOWN_FIELD", nickname="x")
_recipient("TOO_LONG", name="x" * 201)
_recipient("INVALID_CHARACTERS", name="Bcc:\r\nx")
_recipient("MISSING_EMAIL", email=None)
_recipient("INVALID_EMAIL", email="not an address")
_recipient("MISSING_REQUIRED_VARIABLE", variables={})
_recipient("INVALID_VARIABLE", variables={"code": "1", "minutes": "soon"})
_recipient(
    "ATTACHMENTS_TOO_LARGE",
    attachments=[{"filename": "a", "contentType": "text/plain", "content": "AAAA" * 3_600_000}],
)


@provokes("FOREIGN_PAGE")
async def _foreign_page(at: Setting) -> Reply:
    api = await at.other("console")
    return await api.post("/console/session", {"apiKey": READ_KEY}, headers={"Sec-Fetch-Site": "cross-site"})


@provokes("TOO_MANY_STREAMS")
async def _too_many_streams(at: Setting) -> Reply:
    async def none_is_left() -> bool:
        return "kurir_event_streams 0.0" in (await at.api.get("/metrics")).text

    await wait_for(none_is_left)  # those of other tests end when they are written to
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        for _ in range(MOST_STREAMS):
            stream = await stack.enter_async_context(http.get(f"{at.api.url}/api/events"))
            assert await stream.content.readline() == b"retry: 2000\n"
        reply = await at.api.get("/api/events")
    await wait_for(none_is_left)  # other tests need streams
    return reply


@provokes("MISSING_ATTACHMENT")
async def _missing_attachment(at: Setting) -> Reply:
    await at.api.post("/api/templates", template(id="shown", html='<img src="cid:logo">'))
    return await at.api.blast(person(1), templateId="shown")


_head("UNKNOWN_TEMPLATE", templateId="nothing")
_head("UNKNOWN_CHANNEL", channels=["pigeon"])
_head("CHANNEL_NOT_SUPPORTED", templateId="newsletter", channels=["whatsapp"])
_head("PUBLIC_URL_REQUIRED", templateId="newsletter")
_head("TIME_IN_PAST", scheduledAt=_in(hours=-1))
_head("TIME_TOO_FAR", scheduledAt=_in(days=400))
_head("EXPIRES_BEFORE_START", scheduledAt=_in(hours=2), expiresAt=_in(hours=1))
_template("INVALID_TEMPLATE", text="{{ name.__class__ }}")
_template(
    "PARAMETER_COUNT_MISMATCH",
    channels=["whatsapp"],
    whatsapp={"templateName": "t", "language": "en", "headerVariables": ["name", "phone"]},
)
_template("RENDER_FAILED", text="{{ 1 / 0 }}")


@provokes("NO_RECIPIENTS")
async def _no_recipients(at: Setting) -> Reply:
    return await at.api.blast()


@provokes("INVALID_PHONE")
async def _invalid_phone(at: Setting) -> Reply:
    return await at.api.blast(person(phone="12"), channels=["whatsapp"])


@provokes("MISSING_PHONE")
async def _missing_phone(at: Setting) -> Reply:
    return await at.api.blast(person(phone=""), channels=["whatsapp"])


@provokes("DUPLICATE_RECIPIENT")
async def _duplicate(at: Setting) -> Reply:
    return await at.api.blast(person(), person(), onDuplicate="error")


@provokes("INVALID_IDEMPOTENCY_KEY")
async def _bad_key(at: Setting) -> Reply:
    return await at.api.blast(person(), key="k" * 256)


@provokes("IDEMPOTENCY_KEY_REUSED")
async def _reused(at: Setting) -> Reply:
    assert (await at.api.blast(person(1), key="a")).status == 202
    return await at.api.blast(person(2), key="a")


@provokes("IDEMPOTENCY_IN_PROGRESS")
async def _in_progress(at: Setting) -> Reply:
    body = json.dumps({"templateId": "otp", "channels": ["email"], "recipients": [person()]}).encode()
    digest = Digest("blast", "application/json", "")
    digest.update(body)
    assert (await IdempotencyStore(at.redis).claim(record_key("", "b"), digest.text(), NEVER)).state == "new"
    return await at.api.post(BLAST, data=body, headers=JSON | {"Idempotency-Key": "b"})


@provokes("BLAST_ENDED")
async def _ended(at: Setting) -> Reply:
    return await at.api.post(f"/api/blasts/{await at.ended_blast()}/pause")


@provokes("JOB_ENDED")
async def _job_ended(at: Setting) -> Reply:
    message = {"success": True, "message": {"job_id": JOB, "status": "sent"}}
    at.usual.peers.answers[f"GET /api/messages/{JOB}"] = (200, message)
    return await at.api.post(f"/api/messages/{JOB}/cancel")


@provokes("JOB_PROCESSING")
async def _processing(at: Setting) -> Reply:
    job_id = (await at.api.blast(person())).body["jobIds"][0]
    sender = await World(at.redis).sender()
    assert len(await sender.take()) == 1
    return await at.api.post(f"/api/messages/{job_id}/cancel")


@provokes("JOB_NOT_RETRYABLE")
async def _not_retryable(at: Setting) -> Reply:
    refused = {"success": False, "code": "JOB_NOT_RETRYABLE", "message": "it was sent", "errors": []}
    at.usual.peers.answers["POST /internal/retry"] = (409, refused)
    return await at.api.post(f"/api/messages/{JOB}/retry")


def _webhook(code: str, status: int) -> None:
    async def provoke(at: Setting) -> Reply:
        refused = {"success": False, "code": code, "message": "", "errors": []}
        at.usual.peers.answers["POST /webhooks/x/test"] = (status, refused)
        return await at.api.post("/api/webhooks/x/test")

    PROVOCATIONS[code] = provoke


_webhook("WEBHOOK_NOT_FOUND", 404)
_webhook("WEBHOOK_DISABLED", 409)


@provokes("TOO_MANY_WEBHOOKS")
async def _too_many_webhooks(at: Setting) -> Reply:
    refused = {"success": False, "code": "TOO_MANY_WEBHOOKS", "message": "", "errors": []}
    at.usual.peers.answers["POST /webhooks"] = (409, refused)
    return await at.api.post("/api/webhooks", {"url": "https://example.com/", "events": ["*"]})


@provokes("TEMPLATE_EXISTS")
async def _exists(at: Setting) -> Reply:
    assert (await at.api.post("/api/templates", template())).status == 201
    return await at.api.post("/api/templates", template())


@provokes("UNAUTHORIZED")
async def _unauthorized(at: Setting) -> Reply:
    keyed = await at.other("keyed")
    return await keyed.get("/api/channels", headers={"Authorization": "Bearer no-such-key-0123456789"})


@provokes("INVALID_SIGNATURE")
async def _unsigned(at: Setting) -> Reply:
    return await (await at.other("hooked")).post(f"/hooks/meta/{TOKEN}", {})


@provokes("RECEIPTS_NOT_TAKEN")
async def _not_taken(at: Setting) -> Reply:
    return await (await at.other("hooked away")).post(f"/hooks/meta/{TOKEN}", {})


@provokes("MISSING_SCOPE")
async def _missing_scope(at: Setting) -> Reply:
    keyed = await at.other("keyed")
    return await keyed.post("/api/channels/email/pause", headers={"Authorization": f"Bearer {READ_KEY}"})


@provokes("SENDER_NOT_ALLOWED")
async def _sender_not_allowed(at: Setting) -> Reply:
    keyed = await at.other("keyed")
    body = {"templateId": "otp", "channels": ["email"], "from": "ceo@example.com", "recipients": [person()]}
    return await keyed.post(BLAST, body, headers={"Authorization": f"Bearer {BOUND_KEY}"})


@provokes("RATE_LIMITED")
async def _rate_limited(at: Setting) -> Reply:
    keyed = await at.other("keyed")
    for _ in range(6):
        reply = await keyed.post(BLAST, {}, headers={"Authorization": f"Bearer {SEND_KEY}"})
    return reply


@provokes("BODY_TOO_LARGE")
async def _too_large(at: Setting) -> Reply:
    small = await at.other("small")
    return await small.post(BLAST, data=b" " * 1_100_000, headers=JSON)


@provokes("REQUEST_TIMEOUT")
async def _too_slow(at: Setting) -> Reply:
    """Send a head that announces a body, then nothing."""
    port = at.start("small").port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {BLAST} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
    writer.write(f"{head}\r\n".encode())
    said = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(line for line in said.splitlines() if line.startswith("Content-Length"))
    body = await reader.readexactly(int(length.split()[1]))
    writer.close()
    return Reply(int(said.split()[1]), {}, body.decode())


@provokes("CHANNEL_NOT_CONFIGURED")
async def _not_configured(at: Setting) -> Reply:
    return await (await at.other("small")).blast(person(), channels=["whatsapp"])


@provokes("PRIORITY_NOT_ALLOWED")
async def _priority(at: Setting) -> Reply:
    return await (await at.other("small")).blast(*map(person, range(4)), priority=0)


@provokes("TOO_MANY_RECIPIENTS")
async def _too_many(at: Setting) -> Reply:
    return await (await at.other("small")).blast(*map(person, range(6)))


@provokes("BACKLOG_FULL")
async def _backlog(at: Setting) -> Reply:
    small = await at.other("small")
    assert (await small.blast(*map(person, range(4)))).status == 202
    return await small.blast(person(8), person(9))


@provokes("STORAGE_UNAVAILABLE")
async def _storage(at: Setting) -> Reply:
    """Remove the folder of the spools."""
    small = at.start("small")
    spool = Path(small.env["KURIR_DATA_DIR"]) / "spool"
    shutil.rmtree(spool)
    lines = [json.dumps({"templateId": "otp", "channels": ["email"]})]
    lines += [json.dumps(person(number)) for number in range(3)]  # the first three are rendered as a test
    lines += [json.dumps(person(number, variables={"code": "x" * 65_000})) for number in range(3, 73)]
    try:
        return await (await at.other("small")).post(BLAST, data="\n".join(lines).encode(), headers=NDJSON)
    finally:
        spool.mkdir()


@provokes("INTERNAL_ERROR")
async def _internal(at: Setting) -> Reply:
    """Store a value of another type in place of a blast's progress."""
    blast_id = (await at.api.blast(person())).body["blastId"]
    await at.redis.set(f"{{email}}:blast:{blast_id}", "no hash")
    return await at.api.get(f"/api/blasts/{blast_id}")


@provokes("QUEUE_UNAVAILABLE")
async def _no_queue(at: Setting) -> Reply:
    return await (await at.other("away")).blast(person())


@provokes("LOGGER_UNAVAILABLE")
async def _no_logger(at: Setting) -> Reply:
    at.usual.peers.answers["GET /api/dashboard"] = (503, {})
    return await at.api.get("/api/dashboard")


@provokes("SENDER_UNAVAILABLE")
async def _no_sender(at: Setting) -> Reply:
    at.usual.peers.answers["GET /status"] = (500, {})
    return await at.api.get("/api/smtp/status")
