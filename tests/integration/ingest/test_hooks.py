"""Hooks: every provider's requests are taken whole, forged ones refused, and what may pass is a 429."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from services.ingest.api.hooks import MOST_BYTES
from shared.queue.receipts import ReceiptEntry, ReceiptInbox
from tests.integration.ingest.conftest import StartIngest
from tests.integration.ingest.hook_requests import BY_URL, PROVIDERS, SHAPES, SIGNED, TOKEN, HookRequest, hook_request
from tests.integration.ingest.running import Api, Reply, RunningIngest, open_api, running
from tests.servers import RedisServer, wait_for

# SES's certificate is fetched from Amazon: `test_sns_over_tls`
SIGNING = [provider for provider in PROVIDERS if provider != "ses"]


@pytest.fixture
async def hooked(redis: Redis, start_ingest: StartIngest) -> AsyncIterator[Api]:
    """An ingest that checks all providers."""
    assert await redis.ping()
    async with AsyncExitStack() as stack:
        yield await open_api(stack, start_ingest("hooked").url)


async def post(api: Api, request: HookRequest, token: str = TOKEN, **headers: str) -> Reply:
    path = f"/hooks/{request.provider}/{token}"
    return await api.call("POST", path, data=request.body, headers={**request.headers, **headers})


async def taken(redis: Redis) -> list[ReceiptEntry]:
    return await ReceiptInbox(redis, "test").read(100)


@pytest.mark.parametrize("how", SHAPES)
@pytest.mark.parametrize("provider", SIGNING)
async def test_a_genuine_request_is_taken_whole(provider: str, how: str, hooked: Api, redis: Redis) -> None:
    """The stream has the body byte for byte, with its provider, whatever its size and characters."""
    request = hook_request(provider, how)
    reply = await post(hooked, request)
    assert (reply.status, reply.body) == (200, {"success": True})
    (entry,) = await taken(redis)
    assert (entry.source, entry.body) == (provider, request.body)
    assert how != "3 MB" or 2_500_000 < len(entry.body) < MOST_BYTES


@pytest.mark.parametrize("provider", SIGNING)
async def test_a_forged_request_is_refused(provider: str, hooked: Api, redis: Redis) -> None:
    """Without its signature or login, and with that of another body, it gets 401 and adds nothing."""
    request = hook_request(provider, "non-ascii")
    proof = [name for name in request.headers if name != "Content-Type"]
    bodies = {"other": request.body.replace(b"wamid", b"wamxx").replace(b"bounce", b"bounxx")}
    if provider == "mailgun":  # which signs nothing but a timestamp and a token
        bodies = {"other": request.body.replace(b'"signature": "', b'"signature": "0')}
    forged = [HookRequest(provider, "", request.body, {"Content-Type": "application/json"})] if proof else []
    if provider not in {"postmark", "brevo"}:
        forged.append(HookRequest(provider, "", bodies["other"], request.headers))
    forged += [HookRequest(provider, "", request.body, {**request.headers, name: "x"}) for name in proof]
    for one in forged:
        reply = await post(hooked, one)
        assert (reply.status, reply.body["code"]) == (401, "INVALID_SIGNATURE")
        assert ("WWW-Authenticate" in reply.headers) == (provider in {"postmark", "brevo"})
    assert await redis.xlen("receipts") == 0
    health = (await hooked.get("/health")).body
    assert health["status"] == "ok"
    assert provider in health["warnings"][f"hook_{provider}"]
    assert (await post(hooked, request)).status == 200
    assert f"hook_{provider}" not in (await hooked.get("/health")).body.get("warnings", {})


async def test_unlisted_topics_are_refused(hooked: Api, redis: Redis) -> None:
    """A message of SNS that is signed by nobody we know adds nothing, and nothing is fetched for it."""
    request = hook_request("ses")
    other = request.body.replace(b"kurir-bounces", b"evil-bounces")
    reply = await post(hooked, HookRequest("ses", "", other, request.headers))
    assert (reply.status, reply.body["code"]) == (401, "INVALID_SIGNATURE")
    assert await redis.xlen("receipts") == 0


async def test_the_url_alone_serves_where_nothing_else_is_set(redis: Redis, start_ingest: StartIngest) -> None:
    """Requests are taken unsigned; the health names what could be checked. SES is refused without a topic."""
    async with AsyncExitStack() as stack:
        api = await open_api(stack, start_ingest("hooked by url").url)
        for provider in SIGNING:
            assert (await post(api, HookRequest(provider, "", b"[]", {}))).status == 200
        assert (await post(api, hook_request("ses"))).body["code"] == "INVALID_SIGNATURE"
        warnings = (await api.get("/health")).body["warnings"]
        assert (await api.get(f"/hooks/meta/{TOKEN}?hub.mode=subscribe&hub.challenge=1")).status == 401
    named = {name for name in warnings if name.startswith("hook_")}
    assert named == {"hook_mailgun", "hook_meta", "hook_resend", "hook_sendgrid", "hook_ses"}
    assert "KURIR_META_APP_SECRET" in warnings["hook_meta"]
    assert sorted(entry.source for entry in await taken(redis)) == sorted(SIGNING)


async def test_an_answer_has_the_same_headers_whether_or_not_the_connection_is_kept(hooked: Api, redis: Redis) -> None:
    """Nothing but the id, the time and `Connection` differ, and a given id is returned."""
    assert await redis.ping()
    request = hook_request("meta")
    kept = await post(hooked, request, **{"X-Request-Id": "given-1"})
    closed = await post(hooked, request, Connection="close")
    assert (kept.headers["X-Request-Id"], kept.body) == ("given-1", closed.body)
    assert abs(parsedate_to_datetime(kept.headers["Date"]).timestamp() - time.time()) < 60
    assert kept.headers.keys() == closed.headers.keys() - {"Connection"}
    differing = {name.lower() for name, value in kept.headers.items() if value != closed.headers[name]}
    assert differing <= {"x-request-id", "date"}


async def test_a_path_is_found_again_after_many_strange_ones(hooked: Api, redis: Redis) -> None:
    """Each path gets its own answer, whichever came before, and other methods of a hook's path are refused."""
    meta, qiscus = hook_request("meta"), hook_request("qiscus")
    for round_ in range(2):
        assert (await post(hooked, meta)).status == (await post(hooked, qiscus)).status == 200
        assert (await hooked.call("PUT", f"/hooks/meta/{TOKEN}")).status == 405
        for number in range(70):
            assert (await post(hooked, meta, f"{TOKEN}{round_}{number}")).status == 404
    assert [entry.source for entry in await taken(redis)] == ["meta", "qiscus"] * 2


@pytest.mark.parametrize("token", [TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "x", "%00", "%FF%FE", "%C3%BC", "a" * 5000])
@pytest.mark.parametrize("provider", ["meta", "ses", "nobody"])
async def test_a_wrong_token_is_not_found(provider: str, token: str, hooked: Api, redis: Redis) -> None:
    """It gets the answer of a path that does not exist, and adds nothing."""
    reply = await hooked.call("POST", f"/hooks/{provider}/{token}", data=b"{}")
    assert (reply.status, reply.body["code"]) == (404, "NOT_FOUND")
    assert (await hooked.get(f"/hooks/meta/{token}?hub.mode=subscribe")).status == 404
    assert await redis.xlen("receipts") == 0


async def test_an_unknown_provider_is_not_found(hooked: Api) -> None:
    """The right token does not show which providers there are."""
    assert (await hooked.call("POST", f"/hooks/nobody/{TOKEN}", data=b"{}")).body["code"] == "NOT_FOUND"


async def test_hooks_need_a_token_in_the_settings(api: Api) -> None:
    """Where KURIR_HOOK_TOKEN is not set, no token is right."""
    for token in ("", "x", TOKEN):
        assert (await api.call("POST", f"/hooks/meta/{token}", data=b"{}")).status == 404


async def test_metas_challenge_is_answered(hooked: Api) -> None:
    """The bare challenge comes back as plain text; a wrong verify token gets 401, other modes 400."""
    path = f"/hooks/meta/{TOKEN}"
    right = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": "verify token"}
    reply = await hooked.get(path, params=right)
    assert (reply.status, reply.text) == (200, "1158201444")
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert (await hooked.get(path, params=right | {"hub.verify_token": "other"})).status == 401
    assert (await hooked.get(path, params=right | {"hub.mode": "unsubscribe"})).status == 400
    assert (await hooked.get(path, params=right | {"hub.challenge": ""})).status == 400


async def test_a_used_token_of_mailgun_is_not_taken_again(hooked: Api, redis: Redis) -> None:
    """The same request again is answered with 200 and adds nothing, and so is another body with its signature."""
    request = hook_request("mailgun")
    other = HookRequest("mailgun", "", request.body.replace(b"invalid@", b"victim@"), request.headers)
    statuses = [(await post(hooked, one)).status for one in (request, request, other)]
    assert statuses == [200, 200, 200]
    (entry,) = await taken(redis)
    assert entry.body == request.body
    text = (await hooked.get("/metrics")).text
    assert 'kurir_hook_requests_total{outcome="repeated",provider="mailgun"} ' in text


async def test_a_compressed_body_is_checked_inflated(hooked: Api, redis: Redis) -> None:
    """The signature is that of the JSON, as providers compute it."""
    request = hook_request("meta", "batched")
    squeezed = HookRequest("meta", "", gzip.compress(request.body), {**request.headers, "Content-Encoding": "gzip"})
    assert (await post(hooked, squeezed)).status == 200
    assert [entry.body for entry in await taken(redis)] == [request.body]


async def test_a_body_that_is_too_large_is_refused(hooked: Api, redis: Redis) -> None:
    """No provider sends more than 5 MB."""
    reply = await post(hooked, HookRequest("brevo", "", b"x" * (MOST_BYTES + 1), hook_request("brevo").headers))
    assert (reply.status, reply.body["code"]) == (413, "BODY_TOO_LARGE")
    assert await redis.xlen("receipts") == 0


@pytest.mark.parametrize("provider", SIGNING)
async def test_a_full_stream_is_answered_with_429(provider: str, hooked: Api, redis: Redis) -> None:
    """The receipts that wait take their share of memory: the provider is asked to send them again, and they are."""
    request, words = hook_request(provider), ""
    try:
        await redis.config_set("maxmemory", 40_000_000)  # of which they may take an eighth
        await redis.xadd("receipts", {"p": "meta", "t": 0, "d": b"x" * 6_000_000})

        async def is_refused() -> bool:
            nonlocal words
            reply = await post(hooked, hook_request("postmark"))
            words = reply.body.get("message", "")
            return reply.status == 429

        await wait_for(is_refused, what="the refusal; the limit is read once a second")
        assert "the receipts that wait take 5,000,000 bytes" in words
        reply = await post(hooked, request)
        assert (reply.status, reply.body["code"]) == (429, "RECEIPTS_NOT_TAKEN")
        assert int(reply.headers["Retry-After"]) >= 1
        await redis.delete("receipts")
        assert (await post(hooked, request)).status == 200
    finally:
        await redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("maxmemory", [1, 2_000_000])
async def test_a_full_redis_is_answered_with_429(maxmemory: int, hooked: Api, redis: Redis) -> None:
    """Beyond its limit Redis refuses writes; near it Kurir does."""
    request = hook_request("meta", "3 MB")
    try:
        await redis.config_set("maxmemory", maxmemory)

        async def is_refused() -> bool:
            return (await post(hooked, request)).status == 429

        await wait_for(is_refused, what="the refusal")
        reply = await post(hooked, request)
        assert (reply.body["code"], reply.headers["Retry-After"]) == ("RECEIPTS_NOT_TAKEN", "30")
    finally:
        await redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("provider", SIGNING)
async def test_without_redis_the_answer_is_429(provider: str, start_ingest: StartIngest) -> None:
    """Some providers drop receipts on a 5xx, so it is never the answer."""
    async with AsyncExitStack() as stack:
        away = await open_api(stack, start_ingest("hooked away").url)
        reply = await post(away, hook_request(provider))
        assert (reply.status, reply.body["code"]) == (429, "RECEIPTS_NOT_TAKEN")
        assert int(reply.headers["Retry-After"]) >= 1
        assert (await post(away, hook_request(provider), token="wrong")).status == 404


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_redis_that_goes_away_loses_nothing_that_was_answered(how: str, tmp_path: Path) -> None:
    """Requests get 200 or 429 while Redis dies and returns; it has all that got 200, and each of the others again."""
    server = RedisServer("valkey")
    server.start()
    try:
        with running(server.url, tmp_path, SIGNED) as ingest:
            async with aiohttp.ClientSession() as http:
                api = Api(http, ingest.url)
                good = await _through_an_outage(server, api, how)
        redis: Any = Redis(port=server.port)
        bodies = [fields[b"d"] for _, fields in await redis.xrange("receipts")]
        await redis.aclose()
        assert set(good) <= set(bodies)
        assert len(good) > 20
    finally:
        server.destroy()


async def _through_an_outage(server: RedisServer, api: Api, how: str) -> list[bytes]:
    """Post requests before, during and after an outage until each is taken; return their bodies."""
    good: list[bytes] = []

    async def send(number: int) -> None:
        body = json.dumps({"event": "delivered", "message-id": f"<{number}@example.com>"}).encode()
        while True:
            reply = await post(api, HookRequest("brevo", "", body, hook_request("brevo").headers))
            assert reply.status in {200, 429}, reply.text
            if reply.status == 200:
                break
            await asyncio.sleep(0.05)
        good.append(body)

    for number in range(10):
        await send(number)
    server.kill() if how == "kill" else server.pause()
    waiting = [asyncio.create_task(send(number)) for number in range(10, 30)]
    await asyncio.wait(waiting, timeout=0.5)
    server.start() if how == "kill" else server.resume()
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)
    return good


async def test_a_body_that_comes_too_slowly_is_asked_for_again(tmp_path: Path, valkey_url: str) -> None:
    """What is 408 for other calls is 429: some providers drop receipts on any other 4xx."""
    with running(valkey_url, tmp_path, BY_URL | {"KURIR_BODY_TIMEOUT": "200ms"}) as ingest:
        reader, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
        writer.write(f"POST /hooks/brevo/{TOKEN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{".encode())
        try:
            async with asyncio.timeout(60):
                answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        finally:
            writer.close()
    assert answer.startswith("HTTP/1.1 429 ")
    assert "Retry-After: " in answer


async def test_an_unexpected_error_is_answered_with_429(hooked: Api, redis: Redis) -> None:
    """A key of another type in place of the stream is nothing that a provider should lose receipts for."""
    await redis.set("receipts", "no stream")
    reply = await post(hooked, hook_request("meta"))
    assert (reply.status, reply.body["code"]) == (429, "RECEIPTS_NOT_TAKEN")


async def test_the_token_is_nowhere_to_be_seen(redis: Any, start_ingest: StartIngest) -> None:
    """Neither the API log, nor log files, metrics or answers show the token of a URL, right or wrong."""
    ingest = start_ingest("hooked")
    wrong = "wrong-token-0123456789-0123456789"
    answers = []
    async with AsyncExitStack() as stack:
        api = await open_api(stack, ingest.url)
        for token in (TOKEN, wrong):
            for path in (
                f"/hooks/meta/{token}",
                f"/hooks/nobody/{token}",
                f"/hooks/meta/{token}/more",
                f"/hooks/{token}",
            ):
                answers.append(await api.call("POST", path, data=b"{}"))
                answers.append(await api.get(f"{path}?hub.verify_token={token}"))
                answers.append(await api.call("PUT", path))
        answers.append(await api.call("POST", f"/hooks/meta/{TOKEN}", data=b"{}", headers={"Content-Encoding": "x"}))
        answers += [await api.get("/metrics"), await api.get("/health")]
    await _until_logged(redis, b"UNSUPPORTED_ENCODING")
    logged = b"".join(fields[b"d"] for _, fields in await redis.xrange("gateway:events"))
    assert b"/hooks/{provider}/{token}" in logged
    files = b"".join(path.read_bytes() for path in Path(ingest.env["KURIR_DATA_DIR"]).rglob("*.log"))
    shown = "".join(f"{one.text}{dict(one.headers)}" for one in answers).encode() + logged + files
    assert [token for token in (TOKEN, wrong) if token.encode() in shown] == []


async def _until_logged(redis: Any, what: bytes) -> None:
    async with asyncio.timeout(60):
        while not any(what in fields[b"d"] for _, fields in await redis.xrange("gateway:events")):
            await redis.xread({"gateway:events": "$"}, block=100)


async def test_taken_receipts_and_strangers_are_not_logged(hooked: Api, redis: Any) -> None:
    """The API log has the refusals of a provider, without the body, and nothing of what was taken or of strangers."""
    request = hook_request("meta", "non-ascii")
    assert (await post(hooked, request, **{"X-Request-Id": "taken-one"})).status == 200
    assert (await post(hooked, request, token="wrong", **{"X-Request-Id": "stranger"})).status == 404
    forged = HookRequest("meta", "", request.body, {"Content-Type": "application/json"})
    assert (await post(hooked, forged, **{"X-Request-Id": "forged-one"})).status == 401
    await _until_logged(redis, b"forged-one")
    logged = b"".join(fields[b"d"] for _, fields in await redis.xrange("gateway:events"))
    assert b"taken-one" not in logged
    assert b"stranger" not in logged
    assert b"wamid" not in logged
    text = (await hooked.get("/metrics")).text
    assert 'route="/hooks/{provider}/{token}",status="404"' in text


async def test_hooks_are_outside_the_limits_of_the_api(redis: Redis, tmp_path: Path, valkey_url: str) -> None:
    """Neither a used-up allowance of their address nor missing API keys stop providers."""
    assert await redis.ping()
    env: dict[str, Any] = BY_URL | {"KURIR_RATE_LIMIT": "5/1h", "KURIR_API_KEYS": "client:send-key-0123456789:send"}
    with running(valkey_url, tmp_path, env) as ingest:
        async with aiohttp.ClientSession() as http:
            api = Api(http, ingest.url)
            while (await api.get("/api/channels")).status != 429:
                pass
            replies = [await post(api, hook_request("brevo")) for _ in range(20)]
            assert {reply.status for reply in replies} == {200}
            assert "RateLimit-Limit" not in replies[0].headers
            assert {(await post(api, hook_request("brevo"), token="x")).status for _ in range(20)} == {404}


@pytest.mark.cost
async def test_strangers_cost_little(start_ingest: StartIngest, redis: Redis) -> None:
    """A wrong token is refused before the body is read: far below what an answer of the API costs."""
    assert await redis.ping()
    ingest: RunningIngest = start_ingest("hooked")
    spent = []
    async with AsyncExitStack() as stack:
        api = await open_api(stack, ingest.url)
        for _ in range(5):
            before = await ingest.thread_time()
            for _ in range(50):
                assert (await api.call("POST", "/hooks/meta/wrong", data=b"x" * 1000)).status == 404
            spent.append((await ingest.thread_time() - before) / 50)
    assert min(spent) < 0.002
