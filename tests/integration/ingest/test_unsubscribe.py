"""Unsubscribing: links that scanners may follow, a button for people, one click for mail programs."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from shared.queue.suppressions import Suppressions
from shared.unsubscribe import make_token
from tests.integration.ingest.running import SECRET, Api

TOKEN = make_token(SECRET, "email", "<ann>@example.com")
HTML = {"Accept": "text/html,application/xhtml+xml"}


async def test_following_the_link_changes_nothing(api: Api, redis: Redis) -> None:
    """GET shows a page with a button, its address escaped, and no script may run on it."""
    page = await api.get(f"/u/{TOKEN}", headers=HTML)
    assert page.status == 200
    assert "<button>" in page.text
    assert "&lt;ann&gt;@example.com" in page.text
    assert "script-src 'none'" in page.headers["Content-Security-Policy"]
    assert await Suppressions(redis).get("email", "<ann>@example.com") is None


async def test_one_click_unsubscribes(api: Api, redis: Redis) -> None:
    """As mail programs do it, twice, without a key, a cookie or a question."""
    for _ in range(2):
        reply = await api.post(f"/u/{TOKEN}", data={"List-Unsubscribe": "One-Click"})
        assert reply.status == 200
    assert await Suppressions(redis).get("email", "<ann>@example.com") == "unsubscribed"


async def test_unsubscribing_one_spelling_unsubscribes_all(api: Api, redis: Redis) -> None:
    """The link of a mail to `Ann@Example.com` stops mail to `ann@example.com`."""
    token = make_token(SECRET, "email", "Ann@Example.com")
    assert (await api.post(f"/u/{token}", data={"List-Unsubscribe": "One-Click"})).status == 200
    assert await Suppressions(redis).get("email", "ann@example.com") == "unsubscribed"


@pytest.mark.parametrize(
    "token", [TOKEN[:-3], TOKEN[::-1], "x", make_token("another secret", "email", "a@example.com")]
)
async def test_a_forged_link_does_nothing(token: str, api: Api, redis: Redis) -> None:
    """400, as a page for browsers and as JSON for others."""
    assert (await api.post(f"/u/{token}")).body["code"] == "INVALID_TOKEN"
    page = await api.get(f"/u/{token}", headers=HTML)
    assert (page.status, page.headers["Content-Type"]) == (400, "text/html; charset=utf-8")
    assert await redis.keys("*suppressed*") == []
