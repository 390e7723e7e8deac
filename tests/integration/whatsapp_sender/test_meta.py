"""Meta's own API: what it demands of a request, and what the status check says about each wrong setting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from shared.errors import StopChannelError
from shared.templates import Template, Variable, WhatsAppContent
from tests.integration.whatsapp_sender.look_alikes import meta_problem
from tests.integration.whatsapp_sender.providers import error_body, message_for, meta, opened, providing

URL, NUMBER, TOKEN = "KURIR_META_URL", "KURIR_META_PHONE_NUMBER_ID", "KURIR_META_ACCESS_TOKEN"
NUMBER_PATH = "/v23.0/106540352242922"
DESCRIPTION = {
    "display_phone_number": "+62 812-3456-7890",
    "verified_name": "Toko Sinar",
    "quality_rating": "GREEN",
    "status": "CONNECTED",
    "id": "106540352242922",
}
UNKNOWN_OBJECT = (
    "Unsupported post request. Object with ID '1' does not exist, cannot be loaded due to missing permissions"
)
TEMPLATES = {
    "nothing": (WhatsAppContent("hello", "en_US"), {}),
    "a namespace": (WhatsAppContent("hello", "en_US", namespace="b393932b_0056"), {}),
    "an image, texts and a button": (
        WhatsAppContent(
            "order_update",
            "id",
            header_variables=["image:picture"],
            body_variables=["name", "amount"],
            button_variables=["tracking"],
        ),
        {"picture": "https://example.com/p.jpg", "amount": 120000, "tracking": "X/1"},
    ),
}


def as_meta(request: web.Request) -> tuple[int, Any]:
    """Answer an empty message or a question about the number as Meta does."""
    if not request.path.startswith("/v23.0/"):
        return 400, error_body(2500, f"Unknown path components: {request.path}", "")
    if request.headers.get("Authorization") != "Bearer s3cret":
        return 401, error_body(190, "Invalid OAuth access token - Cannot parse access token", "")
    if not request.path.startswith(NUMBER_PATH):
        body = error_body(100, UNKNOWN_OBJECT, "")
        body["error"]["error_subcode"] = 33
        return 400, body
    if request.method == "GET":
        return 200, DESCRIPTION
    return 400, error_body(100, "The parameter messaging_product is required.", "")


@pytest.mark.parametrize("content", TEMPLATES)
async def test_nothing_is_wrong_with_any_kind_of_template(content: str) -> None:
    """Meta's look-alike, which takes no unknown field, takes messages with every kind of parameter."""
    whatsapp, variables = TEMPLATES[content]
    names = [Variable(name) for name in variables]
    template = Template("t", "T", ["whatsapp"], variables=names, whatsapp=whatsapp)
    async with providing(demands=meta_problem) as provider, opened(meta(provider.url)) as channel:
        await channel.send(message_for(meta(""), template, **variables))
    assert len(provider.bodies) == 1


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ({}, None),
        ({"secret": "expired"}, [TOKEN]),
        ({"phone_number_id": "1"}, [NUMBER]),
        ({"url": "/v1.0"}, [URL]),
    ],
)
async def test_the_status_names_the_wrong_setting(wrong: dict[str, str], check: list[str] | None) -> None:
    """With the right settings it describes the number; otherwise it says which is wrong. The token is never shown."""
    async with providing() as provider:
        provider.decide = as_meta
        if "url" in wrong:
            wrong = {"url": provider.url + wrong["url"]}
        async with opened(replace(meta(provider.url), **wrong)) as channel:
            found = await channel.status()
    assert found.reachable
    assert found.authenticated == (check is None)
    assert found.detail["provider"] == "meta"
    assert found.detail.get("check") == check
    if check is None:
        number = {"phone": "+62 812-3456-7890", "name": "Toko Sinar", "quality": "GREEN", "status": "CONNECTED"}
        assert found.detail["number"] == number
    assert "s3cret" not in str(found.detail)


@pytest.mark.parametrize("answer", [(400, error_body(100, "no permission")), (200, "<html>"), (500, "")])
async def test_a_missing_description_of_the_number_is_not_a_failure(answer: tuple[int, Any]) -> None:
    """A token may send and not read: then the status has no description."""
    async with providing() as provider, opened(meta(provider.url)) as channel:
        provider.decide = lambda request: answer if request.method == "GET" else as_meta(request)
        found = await channel.status()
    assert found.authenticated
    assert found.detail["number"] == {}


async def test_a_description_that_does_not_come_is_not_a_failure() -> None:
    """The status check does not wait longer than an answer may take."""
    held = asyncio.Event()
    async with providing() as provider, opened(meta(provider.url), answer_s=0.2) as channel:

        async def hang() -> None:
            if provider.requests[-1].method == "GET":
                await held.wait()

        provider.wait, provider.decide = hang, as_meta
        found = await channel.status()
        held.set()
    assert found.authenticated
    assert found.detail["number"] == {"error": "TimeoutError"}


@pytest.mark.parametrize(
    "answer",
    [
        error_body(2500, "Unknown path components: /106540352242922/messages", ""),
        error_body(100, "API calls from the server require an appsecret_proof argument", ""),
        error_body(100, "Invalid appsecret_proof provided in the API argument", ""),
    ],
)
async def test_a_wrong_setting_pauses_the_channel_and_fails_no_message(answer: dict[str, Any]) -> None:
    """Meta refuses every message alike; none of them is at fault."""
    async with providing() as provider, opened(meta(provider.url)) as channel:
        provider.answers(400, answer)
        with pytest.raises(StopChannelError):
            await channel.send(message_for(meta("")))


async def test_a_required_proof_is_named() -> None:
    """An app may demand that requests prove its secret; the status says which settings do that."""
    async with providing() as provider, opened(meta(provider.url)) as channel:
        provider.answers(400, error_body(100, "API calls from the server require an appsecret_proof argument", ""))
        found = await channel.status()
    assert not found.authenticated
    assert found.detail["check"] == ["KURIR_META_APP_SECRET", "KURIR_META_APP_SECRET_PROOF"]
