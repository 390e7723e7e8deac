"""The console as ingest serves it: its files and their policy, signing in and out, and requests of other pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.ingest.api_keys import Keyring, parse_key
from services.ingest.storage.sessions import Sessions
from shared.clock import SystemClock
from tests.integration.ingest.conftest import READ_KEY, SEND_KEY, StartIngest
from tests.integration.ingest.running import Api, Reply, open_api, person, running
from tests.servers import INTERNAL_SECRET, RedisServer, wait_for

SESSION = "/console/session"
OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def console(redis: Redis, start_ingest: StartIngest) -> AsyncIterator[Api]:
    """A client of an ingest with keys."""
    assert await redis.ping()
    async with AsyncExitStack() as stack:
        yield await open_api(stack, start_ingest("console").url)


def cookie_of(reply: Reply) -> Any:
    return SimpleCookie(reply.headers["Set-Cookie"])["kurir_session"]


async def signed_in(api: Api, key: str, **headers: str) -> dict[str, str]:
    """Sign in and return the headers that the console's page then sends."""
    reply = await api.post(SESSION, {"apiKey": key}, headers={**OWN, **headers})
    assert reply.status == 200, reply.text
    return {**OWN, "Cookie": f"kurir_session={cookie_of(reply).value}"}


async def test_the_page_loads_its_files_and_nothing_else(api: Api) -> None:
    """Every path of the console is the same page; its policy allows only this origin, and no inline script."""
    page = await api.get("/console/blasts/x?state=running")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert page.headers["Cache-Control"] == "no-store"
    files = re.findall(r'(?:src|href)="(/console/[^"]+)"', page.text)
    assert len(files) >= 5
    for path in files:
        found = await api.get(path)
        assert found.status == 200
        assert "immutable" in found.headers["Cache-Control"]
        assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert (await api.get("/console", allow_redirects=False)).headers["Location"] == "/console/"


@pytest.mark.parametrize("path", ["/console/static/000000000000/app.js", "/console/static/{}/../files.py",
                                  "/console/static/{}/%2e%2e/files.py", "/console/static/{}//etc/passwd"])  # fmt: skip
async def test_only_files_of_this_version_are_served(api: Api, path: str) -> None:
    """An old version's path, and a path out of the folder, lead nowhere."""
    page = await api.get("/console/")
    version = re.findall(r"/console/static/(\w+)/app.js", page.text)[0]
    found = await api.get(path.format(version))
    assert found.status == 404 or found.text == page.text


async def test_the_frame_for_mails_can_do_nothing(api: Api) -> None:
    """It has no origin and no network; only the console may show it."""
    frame = await api.get("/console/frame")
    policy = frame.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'; script-src 'sha256-")
    assert "frame-ancestors 'self'" in policy
    assert frame.headers["X-Frame-Options"] == "SAMEORIGIN"


async def test_without_keys_nobody_signs_in(api: Api) -> None:
    """On this machine the console is open, with every scope; a page from elsewhere learns nothing."""
    body = (await api.get(SESSION)).body
    assert (body["signedIn"], body["required"], body["scopes"]) == (True, False, ["send", "read", "admin"])
    assert (await api.post(SESSION, {"apiKey": "any"})).body["signedIn"] is True
    for headers in ({"Host": "evil.example"}, {"X-Forwarded-For": "203.0.113.9"}):
        assert (await api.get(SESSION, headers=headers)).body["code"] == "LOOPBACK_ONLY"


async def test_a_key_opens_a_session(console: Api) -> None:
    """The cookie gives what the key gives, until the browser signs out."""
    assert (await console.get(SESSION)).body["signedIn"] is False
    assert (await console.get("/api/channels")).status == 401
    headers = await signed_in(console, READ_KEY)
    body = (await console.get(SESSION, headers=headers)).body
    assert (body["signedIn"], body["key"], body["scopes"]) == (True, "reader", ["read"])
    assert (await console.get("/api/channels", headers=headers)).status == 200
    refused = await console.post("/api/channels/email/pause", headers=headers)
    assert (refused.status, refused.body["code"]) == (403, "MISSING_SCOPE")
    out = await console.call("DELETE", SESSION, headers=headers)
    assert (out.status, cookie_of(out).value, cookie_of(out)["max-age"]) == (200, "", "0")
    assert (await console.get("/api/channels", headers=headers)).status == 401


async def test_a_session_sends_as_its_key_would(console: Api) -> None:
    """A send key sends; the blast is the key's."""
    headers = await signed_in(console, SEND_KEY)
    body = {"templateId": "otp", "channels": ["email"], "recipients": [person()]}
    assert (await console.post("/api/messages/blast", body, headers=headers)).status == 202


async def test_a_wrong_key_opens_nothing(console: Api) -> None:
    """401 without a cookie."""
    reply = await console.post(SESSION, {"apiKey": "no such key at all"}, headers=OWN)
    assert (reply.status, "Set-Cookie" in reply.headers) == (401, False)


async def test_the_cookie_is_for_this_site_and_hides_the_key(console: Api, redis: Redis) -> None:
    """HttpOnly, SameSite=Strict, Secure by https only; neither cookie nor Redis has a key or a usable token."""
    reply = await console.post(SESSION, {"apiKey": READ_KEY}, headers=OWN)
    cookie = cookie_of(reply)
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "Strict", "/", "")
    secure = await console.post(SESSION, {"apiKey": READ_KEY}, headers={"Origin": "https://kurir.example.com"})
    assert cookie_of(secure)["secure"] is True
    client: Any = redis
    records = [key async for key in client.scan_iter("ingest:session:*")]
    assert len(records) == 2
    for record in records:
        stored = record + await client.get(record)
        assert READ_KEY.encode() not in stored
        assert cookie.value.encode() not in stored
        assert 0 < await client.pttl(record) <= 12 * 3600 * 1000
    assert READ_KEY not in reply.headers["Set-Cookie"]


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                                     {"Origin": "http://127.0.0.1:1"}, {"Origin": "null"}])  # fmt: skip
async def test_another_page_changes_nothing_with_the_cookie(
    console: Api, redis: Redis, headers: dict[str, str]
) -> None:
    """A write that does not come from the console is refused: nothing is queued, nobody signed out."""
    cookie = {"Cookie": (await signed_in(console, SEND_KEY))["Cookie"]}
    body = {"templateId": "otp", "channels": ["email"], "recipients": [person()]}
    for method, path in (("POST", "/api/messages/blast"), ("POST", "/api/blasts/x/cancel"), ("DELETE", SESSION)):
        data = {"json": body} if path.endswith("blast") else {}
        reply = await console.call(method, path, headers=cookie | headers, **data)
        assert (reply.status, reply.body["code"]) == (403, "FOREIGN_PAGE")
    client: Any = redis
    assert [key async for key in client.scan_iter("blast:*")] == []
    assert (await console.get("/api/channels", headers=cookie)).status == 200


async def test_another_page_signs_nobody_in(console: Api) -> None:
    """Otherwise a victim would work in the attacker's session."""
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
        assert (await console.post(SESSION, {"apiKey": READ_KEY}, headers=headers)).body["code"] == "FOREIGN_PAGE"


async def test_a_forged_token_opens_nothing(console: Api) -> None:
    """An invented token, a changed one and one whose end was moved are refused."""
    token = (await signed_in(console, READ_KEY))["Cookie"].partition("=")[2]
    forged = ["x", "", "é", "A" * len(token), token[:-2] + "AA", token[:20] + "zzzz" + token[24:], token + "AAAA"]
    for one in forged:
        reply = await console.get("/api/channels", headers={"Cookie": f"kurir_session={one}"})
        assert reply.status == 401, one


class _Clock(SystemClock):
    """A clock that the test sets forward."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_ms / 1000


async def test_a_session_ends_by_itself(redis: Redis) -> None:
    """After its lifetime the token is refused, and Redis has forgotten it."""
    clock, keyring = _Clock(), Keyring([parse_key(f"reader:{READ_KEY}:read")])
    sessions = Sessions(redis, INTERNAL_SECRET, keyring, clock, lifetime_ms=60_000)
    session = await sessions.begin(keyring.find(READ_KEY) or pytest.fail("no key"))
    clock.ahead_ms = 59_000
    found = await sessions.find(session.token)
    assert found is not None
    assert found.key.name == "reader"
    clock.ahead_ms = 60_001
    assert await sessions.find(session.token) is None
    client: Any = redis
    (record,) = [key async for key in client.scan_iter("ingest:session:*")]
    assert await client.pttl(record) <= 60_000


async def test_a_signed_out_session_ends_in_every_process(redis: Redis) -> None:
    """Another process believes what it knows for at most five seconds."""
    clock, keyring = _Clock(), Keyring([parse_key(f"reader:{READ_KEY}:read")])
    here, there = (Sessions(redis, INTERNAL_SECRET, keyring, clock) for _ in range(2))
    token = (await here.begin(keyring.find(READ_KEY) or pytest.fail("no key"))).token
    assert await there.find(token) is not None
    await here.end(token)
    assert await here.find(token) is None
    clock.ahead_ms = 5001
    assert await there.find(token) is None


async def test_a_session_is_believed_while_redis_is_known_to_be_away(redis: Redis) -> None:
    """Each call of an open console waited five seconds for a Redis that did not answer."""
    clock, keyring = _Clock(), Keyring([parse_key(f"reader:{READ_KEY}:read")])
    here, there = (Sessions(redis, INTERNAL_SECRET, keyring, clock) for _ in range(2))
    token = (await here.begin(keyring.find(READ_KEY) or pytest.fail("no key"))).token
    assert await there.find(token) is not None
    await here.end(token)
    clock.ahead_ms = 5001
    assert await there.find(token, is_away=True) is not None
    assert await there.find(token) is None
    assert await there.find(token, is_away=True) is None


async def test_a_session_survives_redis_and_ends_with_its_key(tmp_path: Path) -> None:
    """While Redis is away the log can be read; after a restart without the key, its sessions open nothing."""
    server = RedisServer("valkey")
    server.start()
    other = "another-key-0123456789"
    try:
        with running(server.url, tmp_path, {"KURIR_API_KEYS": f"reader:{READ_KEY}:read"}) as ingest:
            ingest.peers.answers["GET /api/logs/system"] = (200, {"success": True, "logs": [], "nextCursor": None})
            async with AsyncExitStack() as stack:
                api = await open_api(stack, ingest.url)
                headers = await signed_in(api, READ_KEY)
                assert (await api.get("/api/logs/system", headers=headers)).status == 200
                server.stop()

                async def unhealthy() -> bool:
                    return (await api.get("/health")).status == 503

                await wait_for(unhealthy)
                assert (await api.get("/api/logs/system", headers=headers)).status == 200
                assert (await api.get("/api/channels", headers=headers)).status == 503
        server.start()
        with running(server.url, tmp_path, {"KURIR_API_KEYS": f"reader:{other}:read"}) as ingest:
            async with AsyncExitStack() as stack:
                api = await open_api(stack, ingest.url)
                assert (await api.get("/api/channels", headers=headers)).status == 401
    finally:
        server.destroy()
