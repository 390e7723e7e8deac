"""The status check: whether Qiscus is reachable and accepts our credentials, without sending a message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shared.sending.provider import ProviderStatus
from tests.integration.sandbox.running import Sandbox
from tests.integration.whatsapp_sender.providers import ACCEPTED, error_body, opened, providing, qiscus
from tests.raw_servers import serving_raw
from tests.servers import free_port

URL, APP, CHANNEL = "KURIR_QISCUS_URL", "KURIR_QISCUS_APP_CODE", "KURIR_QISCUS_CHANNEL_ID"
SECRET = "KURIR_QISCUS_SECRET_KEY"
LOG_IN = "<!DOCTYPE html><html><title>Log in to the network</title></html>"


async def status_of(status: int, body: object, headers: dict[str, str] | None = None) -> ProviderStatus:
    """Return the status for a provider that gives this response to every request."""
    async with providing() as provider, opened(qiscus(provider.url)) as channel:
        provider.answers(status, body, headers)
        found = await channel.status()
    assert set(provider.bodies) == {b"{}"}
    assert found.reachable
    assert found.detail["httpStatus"] == status
    assert ("error" in found.detail) != found.authenticated
    return found


@pytest.mark.parametrize("code", [100, 130429, 131000, 131008, 131009, 131999, 132000])
async def test_whatsapps_refusal_of_the_message_is_a_yes_to_us(code: int) -> None:
    """A refusal of an empty message in the form of Meta's errors proves that our credentials were accepted."""
    assert (await status_of(400, error_body(code))).authenticated


@pytest.mark.parametrize(
    ("status", "body", "check"),
    [
        (401, {"status": 401, "errors": {"message": "Unauthorized"}}, [APP, SECRET]),
        (401, error_body(0, "We were unable to authenticate the app user", ""), [APP]),
        (401, {"errors": {"message": "Qiscus-Secret-Key is invalid"}}, [SECRET]),
        (403, {"error": "App ID not found"}, [APP]),
        (200, {"status": 401, "error": "Unauthorized"}, [APP, SECRET]),
        (404, {"status": 404, "error": "Channel not found"}, [CHANNEL]),
        (404, {"errors": {"message": "App not found"}}, [APP]),
        (404, {"error": "Not Found"}, [URL, APP, CHANNEL]),
        (404, error_body(100, "Not here", "no such app or channel"), [CHANNEL, APP]),
        (400, error_body(100, "Unsupported post request. Object with ID '42' does not exist", ""), None),
        (404, LOG_IN, [URL]),
        (404, "404 page not found", [URL]),
        (405, "Method Not Allowed", [URL]),
        (403, "<html>Access denied by the firewall</html>", [URL, APP, SECRET]),
        (407, "<html>Proxy authentication required</html>", [URL, APP, SECRET]),
        (400, "<html>The plain HTTP request was sent to HTTPS port</html>", [URL]),
        (403, error_body(131031, "Account has been locked"), []),
        (402, {"error": "Payment Required"}, []),
        (502, "<html>Bad Gateway</html>", []),
        (500, {"error": "Internal Server Error"}, []),
    ],
)
async def test_what_is_wrong_is_named(status: int, body: object, check: list[str] | None) -> None:
    """The status has the settings to check, as far as the response distinguishes them, and the provider's words."""
    if check is None:
        assert isinstance(body, dict)
        body["error"]["error_subcode"], check = 33, [CHANNEL]
    found = await status_of(status, body)
    assert not found.authenticated
    assert found.detail["check"] == check
    for setting in check:
        assert setting in str(found.detail["error"])
    assert found.detail["answer"] == (body if isinstance(body, str) else json.dumps(body))[:300]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, LOG_IN),
        (200, ""),
        (200, "ok"),
        (204, ""),
        (511, LOG_IN),
        (200, {"status": "ok"}),
        (200, {"id": 7, "name": "another API"}),
        (200, ACCEPTED),
        (200, [1, 2]),
        (201, {"json": {}, "data": "{}", "url": "http://example.com/post"}),
        (400, {"error": "Bad Request", "message": "body is empty"}),
        (400, {"code": 3, "message": "invalid argument", "details": []}),
        (400, {"error": {"code": 400, "message": "Invalid JSON payload", "status": "INVALID_ARGUMENT"}}),
        (422, {"detail": [{"loc": ["body", "to"], "msg": "field required"}]}),
        (429, {"message": "Too Many Requests"}),
        (422, "to is required"),
    ],
)
async def test_what_is_not_qiscus_is_never_a_yes(status: int, body: object) -> None:
    """A captive portal, a web page, another API: a response that any server could give proves nothing."""
    found = await status_of(status, body)
    assert not found.authenticated
    assert status == 511 or found.detail["check"] == [URL]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_named_and_not_followed(status: int) -> None:
    """The target is shown: usually the URL has http instead of https, or a portal intercepts."""
    found = await status_of(status, LOG_IN, {"Location": "http://127.0.0.1:1/log-in"})
    assert not found.authenticated
    assert found.detail["check"] == [URL]
    assert "redirected to http://127.0.0.1:1/log-in" in str(found.detail["error"])


def strict(refusals: dict[str, tuple[int, object]]) -> Callable[[web.Request], tuple[int, object]]:
    """A provider that checks app, secret and channel, and refuses an empty message in a generic form."""

    def decide(request: web.Request) -> tuple[int, Any]:
        _, _, _, app, channel, _ = request.path.split("/")
        if app != "app" or request.headers["Qiscus-App-Id"] != "app":
            return refusals["app"]
        if request.headers["Qiscus-Secret-Key"] != "s3cret":
            return refusals["secret"]
        return (422, {"errors": {"to": ["is required"]}}) if channel == "42" else refusals["channel"]

    return decide


QISCUS_LIKE: dict[str, tuple[int, object]] = {
    "app": (401, {"status": 401, "errors": {"message": "Unauthorized"}}),
    "secret": (401, {"status": 401, "errors": {"message": "Unauthorized"}}),
    "channel": (404, {"status": 404, "errors": {"message": "Channel not found"}}),
}


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ({}, None),
        ({"app_code": "other"}, [APP, SECRET]),
        ({"secret": "wrong"}, [APP, SECRET]),
        ({"channel_id": "43"}, [CHANNEL]),
    ],
)
async def test_an_answer_in_no_form_of_metas_is_compared_with_that_to_a_wrong_secret(
    wrong: dict[str, str], check: list[str] | None
) -> None:
    """A provider that refuses a wrong secret, but with ours only the message, has accepted ours."""
    async with providing() as provider:
        provider.decide = strict(QISCUS_LIKE)
        async with opened(replace(qiscus(provider.url), **wrong)) as channel:
            found = await channel.status()
    assert found.authenticated == (check is None)
    assert found.detail.get("check") == check
    assert set(provider.bodies) == {b"{}"}
    assert "s3cret" not in str(found.detail)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ({}, None),
        ({"app_code": "other"}, {APP, SECRET}),
        ({"secret": "wrong"}, {APP, SECRET}),
        ({"channel_id": "2"}, {CHANNEL}),
        ({"path": "/v2"}, {URL}),
    ],
)
async def test_the_sandbox_is_reported_like_qiscus(
    tmp_path: Path, wrong: dict[str, str], check: set[str] | None
) -> None:
    """Each setting is wrong in turn, against Kurir's own sandbox as a process."""
    sandbox = Sandbox(tmp_path)
    await asyncio.to_thread(sandbox.start)
    settings = {"app_code": "sandbox", "channel_id": "1", "secret": "sandbox"} | wrong
    try:
        async with opened(replace(qiscus(sandbox.url + settings.pop("path", "")), **settings)) as channel:
            found = await channel.status()
    finally:
        await asyncio.to_thread(sandbox.kill)
    assert found.authenticated == (check is None)
    assert set(found.detail.get("check", [])) == (check or set())  # type: ignore[call-overload]  # a list or absent


async def test_a_provider_that_is_away() -> None:
    """It is neither reachable nor authenticated; the reason does not contain the secret."""
    async with opened(qiscus(f"http://127.0.0.1:{free_port()}")) as channel:
        found = await channel.status()
    assert (found.reachable, found.authenticated) == (False, False)
    assert "cannot connect" in str(found.detail["error"])
    assert found.detail["check"] == [URL]
    assert "s3cret" not in str(found.detail)


async def test_a_server_that_does_not_speak_http() -> None:
    """The status reports that, and does not count it as authenticated."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await reader.readuntil(b"\r\n")

    async with serving_raw(greet) as url, opened(qiscus(url)) as channel:
        found = await channel.status()
    assert (found.reachable, found.authenticated) == (False, False)
    assert found.detail["check"] == [URL]
