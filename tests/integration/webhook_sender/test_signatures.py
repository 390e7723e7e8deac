"""Signatures, verified by an independent implementation of Standard Webhooks."""

from __future__ import annotations

import json

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from services.webhook_sender.channel import Delivery
from shared.blasts import Blast
from shared.clock import SystemClock
from shared.errors import PermanentError, UnavailableError
from shared.jobs import Job, Recipient
from shared.sealing import Seal
from shared.templates import Template
from shared.webhooks import make_secret, seal_secret
from tests.integration.webhook_sender.endpoints import BODY, DELIVERY, Heard, endpoint, opened, receiving


def verified(secret: str, heard: Heard, body: bytes | None = None) -> object:
    """Verify what a receiver heard with the library's own reading of a secret."""
    return Webhook(secret).verify(heard.body if body is None else body, heard.headers)


async def test_delivery_is_verified_by_the_library() -> None:
    """With the endpoint's secret only, and only with the body as it was."""
    secret, other = make_secret(), make_secret()
    async with receiving() as receiver, opened(endpoint(receiver.url, secret)) as channel:
        await channel.send(DELIVERY)
    (heard,) = receiver.heard
    assert verified(secret, heard) == json.loads(BODY)
    assert heard.headers["webhook-id"] == "evt_abc"
    with pytest.raises(WebhookVerificationError):
        verified(other, heard)
    with pytest.raises(WebhookVerificationError):
        verified(secret, heard, heard.body.replace(b"b:0", b"b:1"))


@pytest.mark.parametrize("body", ["{}", '{"data":"Zoë 🎉"}', '{"data":"' + "a" * 256_000 + '"}', '{"a": "\\u0000\\n"}'])
async def test_signature_is_over_the_body_as_it_was_written(body: str) -> None:
    """Small, large, and with any text: nothing on the way changes a byte."""
    secret = make_secret()
    async with receiving() as receiver, opened(endpoint(receiver.url, secret)) as channel:
        await channel.send(Delivery("j", "", "bat_3_7", body.encode()))
    assert receiver.heard[0].body == body.encode()
    assert verified(secret, receiver.heard[0]) == json.loads(body)


async def test_right_after_a_rotation_both_secrets_verify() -> None:
    """The channel takes the new state while it is open; once the former secret has ended, only the new one signs."""
    first, second = make_secret(), make_secret()
    now_ms = SystemClock().now_ms()
    async with receiving() as receiver, opened(endpoint(receiver.url, first)) as channel:
        await channel.send(DELIVERY)
        channel.update(endpoint(receiver.url, second, first, ends_ms=[0, now_ms + 86_400_000]))
        await channel.send(DELIVERY)
        channel.update(endpoint(receiver.url, second, first, ends_ms=[0, now_ms - 1]))
        await channel.send(DELIVERY)
    before, between, after = receiver.heard
    assert receiver.connections == 1
    assert len(between.headers["webhook-signature"].split()) == 2
    assert verified(first, before) == verified(first, between) == verified(second, between) == verified(second, after)
    for secret, heard in ((second, before), (first, after)):
        with pytest.raises(WebhookVerificationError):
            verified(secret, heard)


async def test_each_attempt_is_signed_with_its_own_time() -> None:
    """A retry an hour later is within the receiver's tolerance, with the id of the first attempt."""

    class LaterClock(SystemClock):
        later_ms = -3_600_000

        def now_ms(self) -> int:
            return super().now_ms() + self.later_ms

    clock, secret = LaterClock(), make_secret()
    async with receiving() as receiver, opened(endpoint(receiver.url, secret), clock) as channel:
        await channel.send(DELIVERY)
        clock.later_ms = 0
        await channel.send(DELIVERY)
    early, late = receiver.heard
    with pytest.raises(WebhookVerificationError, match="too old"):
        verified(secret, early)
    assert verified(secret, late)
    assert early.headers["webhook-id"] == late.headers["webhook-id"]


async def test_clients_own_secret_signs() -> None:
    """Of 24 bytes, the fewest that the standard allows."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    async with receiving() as receiver, opened(endpoint(receiver.url, secret)) as channel:
        await channel.send(DELIVERY)
    assert verified(secret, receiver.heard[0])


async def test_secrets_of_another_system_stop_nothing_for_good() -> None:
    """A sender with a wrong KURIR_INTERNAL_SECRET sends nothing unsigned, and its endpoints are not disabled."""
    async with receiving() as receiver:
        sealed = [seal_secret(make_secret(), Seal("what another system knows"))]
        to = endpoint(receiver.url)
        async with opened(type(to)("w", 3, to.url, True, sealed, [0])) as channel:
            with pytest.raises(UnavailableError, match="KURIR_INTERNAL_SECRET") as caught:
                await channel.send(DELIVERY)
    assert (caught.value.code, receiver.heard) == ("sealed", [])


async def test_nothing_is_sent_unsigned() -> None:
    """An endpoint whose secrets have all ended waits until it has another one."""
    async with receiving() as receiver, opened(endpoint(receiver.url, make_secret(), ends_ms=[1])) as channel:
        with pytest.raises(UnavailableError, match="no secret"):
            await channel.send(DELIVERY)
        channel.update(endpoint(receiver.url, make_secret()))
        await channel.send(DELIVERY)
    assert len(receiver.heard) == 1


async def test_job_holds_the_delivery_whole() -> None:
    """The body and the id are the job's; a job without them fails, and does not stop its channel."""
    async with opened("http://127.0.0.1:1/") as channel:
        job = Job("w", 7, "webhook", "normal", Recipient("w", "evt_1", {"body": '{"a":"é"}'}), 0)
        blast = Blast("w", Template("t", "T", ["webhook"]), ["webhook"], "normal", 0, {"webhook": 1}, 1)
        assert channel.render(job, blast) == Delivery("w:7:webhook", "", "evt_1", '{"a":"é"}'.encode())
        for recipient in (
            Recipient("w", "evt_1"),
            Recipient("w", "", {"body": "{}"}),
            Recipient("w", "e", {"body": 5}),
        ):
            with pytest.raises(PermanentError):
                channel.render(Job("w", 7, "webhook", "normal", recipient, 0), blast)
