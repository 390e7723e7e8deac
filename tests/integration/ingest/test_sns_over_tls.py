"""Fetches from SNS over real TLS: names are checked, redirects are not followed, answers are bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from redis.asyncio import Redis

from services.ingest.hooks.certificates import AmazonError, AmazonFetch
from services.ingest.http.upstreams import open_session
from shared.queue.receipts import ReceiptInbox
from tests.integration.ingest.amazon import HOST, Amazon, amazon
from tests.integration.ingest.hook_requests import SIGNED, SNS, TOKEN, hook_request
from tests.integration.ingest.running import Api, running
from tests.unit.ingest.hooks.signers import CERTIFICATE_URL, TOPIC, Sns, sns_request

CERTIFICATE = CERTIFICATE_URL.removeprefix(f"https://{HOST}")
PAGE = f"https://{HOST}/page"
HOOK = f"/hooks/ses/{TOKEN}"


@pytest.fixture
async def sns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Amazon]:
    """SNS under its own name, with the certificate that messages are signed with."""
    async with amazon(tmp_path, monkeypatch) as found:
        found.answers[CERTIFICATE] = SNS.pem
        yield found


async def fetched(url: str) -> bytes:
    async with open_session() as session:
        return await AmazonFetch(session)(url)


async def test_a_page_is_fetched_over_tls(sns: Amazon) -> None:
    """The whole body comes back."""
    sns.answers["/page"] = b"x" * 60_000
    assert await fetched(PAGE) == b"x" * 60_000


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=302, headers={"Location": "/elsewhere"}),
        web.Response(status=500),
        web.Response(status=404),
        b"x" * 65_537,
    ],
    ids=["redirect", "error", "missing", "large"],
)
async def test_other_answers_are_errors(sns: Amazon, answer: web.Response | bytes) -> None:
    """A redirect is not followed: it could lead anywhere."""
    sns.answers["/page"] = answer
    with pytest.raises(AmazonError, match="answered"):
        await fetched(PAGE)
    assert sns.asked == ["/page"]


async def test_another_name_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with a certificate of another name gets no request."""
    async with amazon(tmp_path, monkeypatch, host="sns.eu-west-1.amazonaws.com.evil.example.com") as other:
        with pytest.raises(AmazonError, match="cannot be reached"):
            await fetched(PAGE)
        assert other.asked == []


async def test_messages_of_sns_are_taken_and_subscriptions_confirmed(
    sns: Amazon, redis: Redis, valkey_url: str, tmp_path: Path
) -> None:
    """A subscription is confirmed at SNS, then its messages are taken; the certificate is fetched once."""
    with running(valkey_url, tmp_path, SIGNED) as ingest:
        async with aiohttp.ClientSession() as http:
            api = Api(http, ingest.url)
            for message in (SNS.subscription(), SNS.message("{}"), SNS.message("ü\n", version="1")):
                headers, body = sns_request(message)
                assert (await api.call("POST", HOOK, data=body, headers=headers)).status == 200
            assert [path for path in sns.asked if path != CERTIFICATE] == [
                f"/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37fb687f5d51"
            ]
            assert len(sns.asked) == 2
            taken = await ReceiptInbox(redis, "test").read(10)
            assert [(entry.source, b'"Notification"' in entry.body) for entry in taken] == [("ses", True)] * 2
            headers, body = sns_request(SNS.message(Type="UnsubscribeConfirmation", Token="x", SubscribeURL="x"))
            assert (await api.call("POST", HOOK, data=body, headers=headers)).status == 200
            headers, body = sns_request(Sns().message())
            forged = await api.call("POST", HOOK, data=body, headers=headers)
            assert (forged.status, forged.body["code"]) == (401, "INVALID_SIGNATURE")
            assert await redis.xlen("receipts") == 2


@pytest.mark.parametrize("what", ["certificate", "confirmation"])
async def test_what_amazon_does_not_answer_is_asked_for_again(
    what: str, sns: Amazon, redis: Redis, valkey_url: str, tmp_path: Path
) -> None:
    """While SNS itself cannot be asked, the answer is 429, so that SNS sends the message again."""
    sns.answers[CERTIFICATE if what == "certificate" else "/"] = web.Response(status=503)
    with running(valkey_url, tmp_path, SIGNED) as ingest:
        async with aiohttp.ClientSession() as http:
            request = hook_request("ses")
            headers, body = request.headers, request.body
            if what == "confirmation":
                headers, body = sns_request(SNS.subscription())
            reply = await Api(http, ingest.url).call("POST", HOOK, data=body, headers=headers)
            assert (reply.status, reply.body["code"]) == (429, "RECEIPTS_NOT_TAKEN")
            assert int(reply.headers["Retry-After"]) > 0
    assert await redis.xlen("receipts") == 0
