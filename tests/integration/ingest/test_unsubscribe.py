"""Unsubscribing: links that scanners may follow, a button for recipients, one click for mail programs."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.queue.suppressions import Suppressions
from shared.unsubscribe import make_token
from tests.integration.ingest.conftest import StartIngest
from tests.integration.ingest.running import SECRET, Api, open_api

TOKEN = make_token(SECRET, "email", "<ann>@example.com")
HTML = {"Accept": "text/html,application/xhtml+xml"}


async def test_following_the_link_changes_nothing(api: Api, redis: Redis) -> None:
    """GET shows a page with a button and the escaped address, on which no script may run."""
    page = await api.get(f"/u/{TOKEN}", headers=HTML)
    assert page.status == 200
    assert "<button>" in page.text
    assert "&lt;ann&gt;@example.com" in page.text
    assert "script-src 'none'" in page.headers["Content-Security-Policy"]
    assert await Suppressions(redis).get("email", "<ann>@example.com") == []


async def test_one_click_unsubscribes(api: Api, redis: Redis) -> None:
    """A mail program posts it twice, without a key, a cookie or a confirmation."""
    for _ in range(2):
        reply = await api.post(f"/u/{TOKEN}", data={"List-Unsubscribe": "One-Click"})
        assert reply.status == 200
    (found,) = await Suppressions(redis).get("email", "<ann>@example.com")
    assert (found.scope, found.source, found.reason) == ("marketing", "unsubscribe", "unsubscribed")


async def test_unsubscribing_one_spelling_unsubscribes_all(api: Api, redis: Redis) -> None:
    """The link of a mail to `Ann@Example.com` stops mail to `ann@example.com`."""
    token = make_token(SECRET, "email", "Ann@Example.com")
    assert (await api.post(f"/u/{token}", data={"List-Unsubscribe": "One-Click"})).status == 200
    assert [one.reason for one in await Suppressions(redis).get("email", "ann@example.com")] == ["unsubscribed"]


@pytest.mark.parametrize(
    "token", [TOKEN[:-3], TOKEN[::-1], "x", make_token("another secret", "email", "a@example.com")]
)
async def test_a_forged_link_does_nothing(token: str, api: Api, redis: Redis) -> None:
    """The answer is 400, as a page for browsers and as JSON for other clients."""
    assert (await api.post(f"/u/{token}")).body["code"] == "INVALID_TOKEN"
    page = await api.get(f"/u/{token}", headers=HTML)
    assert (page.status, page.headers["Content-Type"]) == (400, "text/html; charset=utf-8")
    assert await redis.keys("*suppressed*") == []


def newsletter(**more: Any) -> dict[str, Any]:
    variables = {"month": "May", "headline": "News", "story": "Something happened."}
    return {
        "templateId": "newsletter",
        "channels": ["email"],
        "recipients": [{"name": "Ann", "email": "ann@example.com", "variables": variables}],
        **more,
    }


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("usual", "it is not set"),
        ("plain http", "does not begin with https"),
        ("private", "kurir.lan cannot be reached"),
        ("no secret", "KURIR_SECRET"),
    ],
)
async def test_marketing_mail_without_a_link_is_refused(
    kind: str, reason: str, dry_run: bool, redis: Redis, start_ingest: StartIngest
) -> None:
    """The answer is 422 with the setting to change, for a dry run too; nothing is queued."""
    async with AsyncExitStack() as stack:
        api = await open_api(stack, start_ingest(kind).url)
        reply = await api.post("/api/messages/blast", newsletter(dryRun=dry_run))
    assert (reply.status, reply.body["code"]) == (422, "PUBLIC_URL_REQUIRED")
    assert reply.problem("templateId") == "PUBLIC_URL_REQUIRED"
    assert reason in reply.body["message"]
    assert await redis.keys("*jobs*") == []


@pytest.mark.parametrize("kind", ["public", "sandboxed"])
async def test_marketing_mail_with_a_link_is_taken(kind: str, redis: Redis, start_ingest: StartIngest) -> None:
    """A public link is required, except in the sandbox, whose mail reaches no recipient."""
    assert await redis.ping()
    async with AsyncExitStack() as stack:
        api = await open_api(stack, start_ingest(kind).url)
        assert (await api.post("/api/messages/blast", newsletter())).status == 202
