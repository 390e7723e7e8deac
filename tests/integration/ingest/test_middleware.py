"""The middleware: keys, scopes, origins, limits, headers, the API log, and an unavailable Redis."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.events import ApiRequest, unpack_batch
from shared.unsubscribe import make_token
from tests.integration.ingest.conftest import BOUND_KEY, READ_KEY, SEND_KEY, StartIngest
from tests.integration.ingest.provocations import BLAST, template
from tests.integration.ingest.running import SECRET, Api, Reply, RunningIngest, open_api, person, running
from tests.integration.ingest.test_console import signed_in
from tests.servers import RedisServer, wait_for


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def _keyed(start: StartIngest, stack: AsyncExitStack) -> Api:
    return await open_api(stack, start("keyed").url)


async def test_scopes_hold(redis: Redis, start_ingest: StartIngest) -> None:
    """Reading needs read, sending send, everything else admin; health, metrics and links need no scope."""
    assert await redis.ping()
    async with AsyncExitStack() as stack:
        api = await _keyed(start_ingest, stack)
        assert (await api.get("/api/channels")).headers["WWW-Authenticate"].startswith("Bearer")
        assert (await api.get("/api/channels", headers=bearer(READ_KEY))).status == 200
        assert (await api.post(BLAST, {}, headers=bearer(READ_KEY))).status == 403
        assert (await api.post("/api/templates", template(), headers=bearer(SEND_KEY))).status == 403
        assert [(await api.get(path)).status for path in ("/health", "/metrics", "/openapi.json", "/docs")] == [200] * 4
        assert (await api.get("/u/x")).status == 400


async def test_a_bound_key_sends_only_from_its_addresses(redis: Redis, start_ingest: StartIngest) -> None:
    """This also holds for a blast without a sender, which would use the configured one."""
    body = {"templateId": "otp", "channels": ["email"], "recipients": [person()]}
    async with AsyncExitStack() as stack:
        api = await _keyed(start_ingest, stack)
        assert (await api.post(BLAST, body, headers=bearer(BOUND_KEY))).body["code"] == "SENDER_NOT_ALLOWED"
        own = await api.post(BLAST, {**body, "from": "x@news.example.com"}, headers=bearer(BOUND_KEY))
        assert own.status == 202
    assert await redis.exists(f"blast:{own.body['blastId']}")


async def test_rate_limits_are_in_the_headers_of_every_answer(redis: Redis, start_ingest: StartIngest) -> None:
    """Every answer has RateLimit headers, a refusal Retry-After; another key has its own allowance."""
    assert await redis.ping()
    async with AsyncExitStack() as stack:
        api = await _keyed(start_ingest, stack)
        replies = [await api.get("/api/channels", headers=bearer(READ_KEY)) for _ in range(6)]
        assert [reply.status for reply in replies] == [200] * 5 + [429]
        assert [reply.headers["RateLimit-Remaining"] for reply in replies] == ["4", "3", "2", "1", "0", "0"]
        assert 1 <= int(replies[-1].headers["Retry-After"]) <= 720
        assert (await api.post(BLAST, {}, headers=bearer(SEND_KEY))).status == 422


async def test_without_keys_pages_from_elsewhere_are_refused(api: Api) -> None:
    """A foreign Host (DNS rebinding), a foreign Origin and requests through a proxy are refused."""
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Forwarded": "for=203.0.113.1"}):
        reply = await api.get("/api/channels", headers=headers)
        assert (reply.status, reply.body["code"]) == (403, "LOOPBACK_ONLY")
    assert "Access-Control-Allow-Origin" not in (await api.get("/api/channels")).headers


async def test_every_answer_has_its_request_id_and_security_headers(api: Api) -> None:
    """A valid id of the caller is kept, an invalid one replaced; errors have one as well."""
    kept = await api.get("/api/nothing", headers={"X-Request-Id": "trace-7"})
    assert (kept.status, kept.headers["X-Request-Id"]) == (404, "trace-7")
    made = await api.get("/api/channels", headers={"X-Request-Id": "a b"})
    assert re.fullmatch(r"[0-9a-f]{16}", made.headers["X-Request-Id"])
    assert made.headers["X-Content-Type-Options"] == "nosniff"
    assert made.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert made.headers["Server"] == "kurir"


async def test_requests_are_logged_with_their_secrets_masked(api: Api, redis: Redis) -> None:
    """Each request is one event: path, status, duration, caller, beginning of the body, but no secrets and no files."""
    note = {"filename": "n", "contentType": "text/plain", "content": base64.b64encode(b"private" * 10).decode()}
    body = {"templateId": "otp", "channels": ["email"], "metadata": {"apiToken": "hush-hush"}}
    marked = {"X-Request-Id": "masked"}
    await api.post(BLAST, {**body, "recipients": [person(attachments=[note])]}, headers=marked)
    await api.get("/api/suppressions?limit=5&api_key=hush-hush", headers=marked)
    await api.get("/health", headers=marked)

    blast, listing = await _logged(redis, "masked", 2)
    assert (blast.endpoint, blast.method, blast.status, blast.ip_address) == (BLAST, "POST", 202, "127.0.0.1")
    assert "person0@example.com" in blast.body
    assert note["content"] not in blast.body
    assert "hush-hush" not in blast.body + listing.body


async def _logged(redis: Redis, request_id: str, count: int) -> list[ApiRequest]:
    """Wait for the events of requests with this id."""

    async def found() -> list[ApiRequest]:
        client: Any = redis
        rows = await client.xrange("gateway:events")
        events = [event for _, fields in rows for event in unpack_batch(fields[b"d"]).events]
        own = [event for event in events if isinstance(event, ApiRequest) and event.request_id == request_id]
        return own if len(own) >= count else []

    return await wait_for(found)


async def test_a_page_that_asks_again_is_only_counted(redis: Redis, start_ingest: StartIngest) -> None:
    """The first call of a page, one that is refused, one that changes something and those of a key are logged."""
    again = {"X-Request-Id": "again", "X-Kurir-Refresh": "1"}
    async with AsyncExitStack() as stack:
        api = await open_api(stack, start_ingest("console").url)
        session = await signed_in(api, READ_KEY, **{"X-Request-Id": "sign-in"})
        for headers in (again | session, again | bearer(READ_KEY), session | {"X-Request-Id": "again"}):
            assert (await api.get("/api/channels", headers=headers)).status == 200
        assert (await api.get("/api/blasts/nothing", headers=again | session)).status == 404
        assert (await api.post(BLAST, {}, headers=again | session)).status == 403
    rows = await _logged(redis, "again", 4)
    assert [(row.method, row.status) for row in rows] == [("GET", 200), ("GET", 200), ("GET", 404), ("POST", 403)]


async def test_an_unsubscribe_link_is_logged_by_its_route(api: Api, redis: Redis) -> None:
    """The token, which can unsubscribe the address, is in no row, however the link was written or called."""
    token = make_token(SECRET, "email", "siti@example.com")
    marked = {"X-Request-Id": "link"}
    paths = (f"/u/{token}", f"/u/{token}/", f"//u/{token}", f"/U/{token}", f"/u/{token}%20", f"/api/u/{token}")
    for path in paths:
        await api.get(path, headers=marked)
    await api.post(f"/u/{token}", headers=marked)
    await api.call("DELETE", f"/u/{token}", headers=marked)
    rows = await _logged(redis, "link", len(paths) + 2)
    assert [row.endpoint for row in rows if row.status == 200] == ["/u/{token}"] * 2
    assert not any(token in str(row) for row in rows)


async def test_the_log_shows_variables_only_of_templates_without_secrets(api: Api, redis: Redis) -> None:
    """A code is in no row, whether sent as intended, misspelt, misplaced, refused, or for an unknown template."""
    code, marked = "731946", {"X-Request-Id": "codes"}
    welcome = {"templateId": "welcome", "channels": ["email"], "recipients": [person(variables={"x": "plain"})]}
    otp = {"templateId": "otp", "channels": ["email"]}
    bodies: list[Any] = [
        {**otp, "recipients": [person(variables={"code": code})]},
        {**otp, "globalVariables": {"code": code}, "recipients": [person(variables={})]},
        {**otp, "recipients": [person(variables={"code": [code]})]},
        {**otp, "recipients": [person(variables={"code": "1", "minutes": code + "x"})]},
        {**otp, "recipients": [person(code=code)]},
        {**otp, "templateId": "opt", "recipients": [person(variables={"code": code})]},
        {**otp, "code": code, "recipients": [person()]},
    ]
    for body in [*bodies, welcome]:
        await api.post(BLAST, body, headers=marked)
    one = {"templateId": "otp", "channel": "email", "recipient": person(variables={"code": code})}
    await api.post("/api/messages", one, headers=marked)
    await api.post("/api/messages/preview", one, headers=marked)
    texts = {
        "application/json": f'{{"templateId": "otp", "recipients": [{{"variables": {{code: "{code}"}}}}]}}',
        "application/x-ndjson": f'{json.dumps(otp)}\n{{"email":"s@example.com","variables":{{"code":"{code}"}}}}\n',
        "text/csv": f"email,code\ns@example.com,{code}\n",
        "multipart/form-data; boundary=b": _part("blast", json.dumps(otp))
        + _part("recipients", f"email,code\ns@example.com,{code}")
        + "--b--\r\n",
    }
    for kind, text in texts.items():
        path = f"{BLAST}?templateId=otp&channels=email&globalVariables.code={code}" if kind == "text/csv" else BLAST
        await api.call("POST", path, data=text.encode(), headers={"Content-Type": kind, **marked})
    rows = await _logged(redis, "codes", len(bodies) + 3 + len(texts))
    assert [row.status for row in rows].count(202) >= 6
    assert not [str(row) for row in rows if code in str(row)]
    assert '"x":"plain"' in next(row.body for row in rows if '"welcome"' in row.body)
    assert sum('"otp"' in row.body or "templateId=otp" in row.body for row in rows) >= 10


async def test_a_secret_in_the_query_of_a_refused_call_is_not_logged(api: Api, redis: Redis) -> None:
    """Neither unknown parameters nor those of unknown calls are logged, since their meaning is unknown."""
    code, marked = "731946", {"X-Request-Id": "queries"}
    queries = (f"code={code}", f"globalVariables.code={code}&dryrun=1", f"globalVariables={code}&x=1", code)
    for query in queries:
        await api.call(
            "POST", f"{BLAST}?templateId=otp&{query}", data=b"email", headers={**marked, "Content-Type": "text/csv"}
        )
        await api.call("PUT", f"{BLAST}?{query}", headers=marked)
        await api.call("POST", f"/api/message?{query}", headers=marked)
    rows = await _logged(redis, "queries", 3 * len(queries))
    assert {row.status for row in rows} == {400, 404, 405}
    assert not [str(row) for row in rows if code in str(row)]


def _part(name: str, content: str) -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{content}\r\n'


async def test_a_page_is_complete_and_its_policy_names_its_script(api: Api) -> None:
    """/docs shows every call, loads nothing from elsewhere, and only its own script may run."""
    page = await api.get("/docs")
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.headers["Content-Security-Policy"]
    assert not re.search(r"(src|href)=\"https?:", page.text)
    for path in json.loads((await api.get("/openapi.json")).text)["paths"]:
        assert path in scripts[0]


async def test_a_head_that_never_ends_is_cut_off(start_ingest: StartIngest) -> None:
    """A client that trickles its headers loses its connection after the time for a head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", start_ingest("small").port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()


async def test_a_client_that_disconnects_is_not_an_error(ingest: RunningIngest, api: Api) -> None:
    """A client that disconnects within its body queues nothing and logs no error; the next one is served."""
    errors = Path(ingest.env["KURIR_DATA_DIR"]) / "logs" / "error.log"
    before = errors.read_text() if errors.exists() else ""
    _, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
    head = f"POST {BLAST} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 999\r\n"
    writer.write(f'{head}\r\n{{"templateId":"otp","channels":["email"]}}\n'.encode())
    await writer.drain()
    writer.transport.abort()

    async def counted() -> bool:
        return 'route="/api/messages/blast",status="400"' in (await api.get("/metrics")).text

    await wait_for(counted)
    assert (await api.blast(person())).status == 202
    assert (errors.read_text() if errors.exists() else "") == before


async def test_ingest_outlives_its_redis(tmp_path: Path) -> None:
    """It answers 503 immediately while Redis is down or frozen, recovers by itself, and never answers wrongly."""
    server = RedisServer("valkey")
    server.start()
    try:
        with running(server.url, tmp_path) as ingest:
            async with AsyncExitStack() as stack:
                api = await open_api(stack, ingest.url)
                assert (await api.blast(person(1))).status == 202
                server.stop()
                await wait_for(lambda: _health(api, 503))
                reply = await api.blast(person(2))
                assert (reply.status, reply.body["code"]) == (503, "QUEUE_UNAVAILABLE")
                server.start()
                await wait_for(lambda: _health(api, 200))
                assert (await api.blast(person(3))).status == 202
                assert (await api.get("/api/messages/stats")).body["stats"]["waiting"] == 2
    finally:
        server.destroy()


@pytest.mark.parametrize(
    ("before", "user", "why"),
    [
        ((), "nobody:s3cret", "Redis refuses the user name or the password in KURIR_REDIS_URL. Try again"),
        (("ACL", "SETUSER", "few", "on", ">pw", "~*", "+ping"), "few:pw", "Redis's user lacks a right"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), "default:", "Redis has fewer replicas than it needs"),
    ],
)
async def test_a_503_says_what_is_wrong_with_redis(
    before: tuple[str, ...], user: str, why: str, tmp_path: Path
) -> None:
    """It said that Redis cannot be reached, although Redis answered and the log knew better."""
    server = RedisServer("valkey")
    server.start()
    try:
        if before:
            server.command(*before)
        with running(server.url.replace("redis://", f"redis://{user}@"), tmp_path) as ingest:
            async with AsyncExitStack() as stack:
                reply = await (await open_api(stack, ingest.url)).blast(person(1))
                assert (reply.status, reply.body["code"]) == (503, "QUEUE_UNAVAILABLE")
                assert reply.body["message"].startswith(why)
                assert "s3cret" not in reply.text
    finally:
        server.destroy()


async def _health(api: Api, status: int) -> Reply | None:
    reply = await api.get("/health")
    return reply if reply.status == status else None
