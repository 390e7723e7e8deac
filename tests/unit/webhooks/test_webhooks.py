"""Webhooks: subscriptions, secrets and signatures, and how an endpoint is packed for the senders."""

from __future__ import annotations

import base64
import hashlib
import hmac

import msgspec
import pytest

from shared.errors import DecodeError
from shared.sealing import Seal, SealError
from shared.webhooks import (
    ALL_EVENTS,
    EVENT_TYPES,
    SUBSCRIBABLE,
    WEBHOOK_TEST,
    Batch,
    Endpoint,
    EndpointConfig,
    check_secret,
    make_secret,
    matches,
    open_secret,
    pack_endpoint,
    seal_secret,
    sign,
    unpack_endpoint,
)

SEAL = Seal("what all services know")


def config(*events: str, channels: tuple[str, ...] = (), reference: str = "") -> EndpointConfig:
    return EndpointConfig("https://example.com/hook", list(events), list(channels), reference)


@pytest.mark.parametrize(
    ("wanted", "event", "channel", "references", "expected"),
    [
        (config("message.sent"), "message.sent", "email", (), True),
        (config("message.sent"), "message.failed", "email", (), False),
        (config("message.sent", "message.failed"), "message.failed", "email", (), True),
        (config("*"), "suppression.added", "whatsapp", (), True),
        (config("*", channels=("email",)), "message.sent", "email", (), True),
        (config("*", channels=("email",)), "message.sent", "whatsapp", (), False),
        (config("*", channels=("email",)), "channel.paused", "whatsapp", (), False),
        (config("*", channels=("email",)), "webhook.disabled", "", (), True),
        (config("*", reference="order-7"), "message.sent", "email", ("order-7",), True),
        (config("*", reference="order-7"), "message.sent", "email", ("x", "order-7"), True),
        (config("*", reference="order-7"), "message.sent", "email", (), False),
        (config("*", reference="order-7"), "blast.completed", "", ("order-8",), False),
        (config("*", reference="order-7"), "channel.paused", "email", (), True),
        (config("*", channels=("email",), reference="r"), "message.sent", "whatsapp", ("r",), False),
        (config(), "message.sent", "email", (), False),
    ],
)
def test_an_endpoint_gets_the_events_that_it_subscribes_to(
    wanted: EndpointConfig, event: str, channel: str, references: tuple[str, ...], expected: bool
) -> None:
    """Type, channel and reference must all fit; a filter does not apply to an event that has nothing of its kind."""
    assert matches(wanted, event, channel, references) is expected


def test_every_type_but_the_test_can_be_subscribed_to() -> None:
    """`webhook.test` goes to one endpoint, whatever it subscribes to."""
    assert set(EVENT_TYPES) - set(SUBSCRIBABLE) == {WEBHOOK_TEST}
    assert set(SUBSCRIBABLE) - set(EVENT_TYPES) == {ALL_EVENTS}


def test_a_signature_is_an_hmac_over_id_timestamp_and_body() -> None:
    """The example of the specification's reference libraries: the key is the decoded base64 after the prefix."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_after_a_rotation_both_secrets_sign() -> None:
    """The signatures are separated by spaces, the newest secret's first; a body may be any bytes."""
    secrets = [make_secret(), make_secret()]
    body = b"\x00\xff%s{}"
    expected = []
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.new(key, b"evt_1.1700000000." + body, hashlib.sha256).digest()
        expected.append("v1," + base64.b64encode(digest).decode())
    assert sign(secrets, "evt_1", 1_700_000_000, body).split(" ") == expected


def test_made_secrets_are_random_and_accepted() -> None:
    """Two made secrets differ; each has 32 bytes."""
    first, second = make_secret(), make_secret()
    assert first != second
    assert check_secret(first) is None
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("whsec_" + base64.b64encode(b"x" * 24).decode(), None),
        ("whsec_" + base64.b64encode(b"x" * 64).decode(), None),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "from 24 to 64 bytes, this one has 23"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "from 24 to 64 bytes, this one has 65"),
        (base64.b64encode(b"x" * 32).decode(), "whsec_ followed by base64"),
        ("whsec_not base64 at all, but long enough", "whsec_ followed by base64"),
        ("whsec_" + base64.b64encode(b"x" * 32).decode().rstrip("="), "whsec_ followed by base64"),
        ("whsec_ключключключключключключключ", "whsec_ followed by base64"),
        ("", "whsec_ followed by base64"),
    ],
)
def test_a_client_s_own_secret_is_checked(text: str, problem: str | None) -> None:
    """From 24 to 64 bytes (Standard Webhooks); the problem does not quote the secret."""
    found = check_secret(text)
    assert (found is None) if problem is None else (found is not None and problem in found)
    assert not found or not text or text not in found


def test_only_secrets_that_have_not_ended_sign() -> None:
    """The former secret signs until its end; the packed endpoint shows neither."""
    new, former = make_secret(), make_secret()
    sealed = [seal_secret(new, SEAL), seal_secret(former, SEAL)]
    endpoint = Endpoint("we_1", 3, "https://example.com/hook", True, sealed, [0, 5000])
    assert endpoint.open_secrets(SEAL, 4999) == [new, former]
    assert endpoint.open_secrets(SEAL, 5000) == [new]
    packed = pack_endpoint(endpoint)
    assert unpack_endpoint(packed) == endpoint
    assert new.encode() not in packed


def test_a_rotation_helps_after_the_internal_secret_has_changed() -> None:
    """The former secret cannot be opened any more, so only the new one signs; without a new one nothing can."""
    former = seal_secret(make_secret(), Seal("what all services knew"))
    new = make_secret()
    rotated = Endpoint("we_1", 3, "https://example.com/hook", True, [seal_secret(new, SEAL), former], [0, 5000])
    assert rotated.open_secrets(SEAL, 0) == [new]
    with pytest.raises(SealError, match="KURIR_INTERNAL_SECRET"):
        Endpoint("we_1", 3, "https://example.com/hook", True, [former], [0]).open_secrets(SEAL, 0)


@pytest.mark.parametrize("broken", ["", "not base64!", base64.b64encode(b"x" * 60).decode()])
def test_a_secret_sealed_by_another_system_is_refused(broken: str) -> None:
    """Another KURIR_INTERNAL_SECRET, or text that was never sealed, raises SealError."""
    with pytest.raises(SealError):
        open_secret(broken, SEAL)
    with pytest.raises(SealError, match="KURIR_INTERNAL_SECRET"):
        open_secret(seal_secret(make_secret(), Seal("what another system knows")), SEAL)


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x80"])
def test_bytes_that_are_not_an_endpoint_keep_themselves(raw: bytes) -> None:
    """The error has the bytes, and its message does not quote them."""
    with pytest.raises(DecodeError) as raised:
        unpack_endpoint(raw)
    assert raised.value.raw == raw


def test_a_configuration_is_json_in_camel_case() -> None:
    """The API's names: `withinMs`; fields that are absent have their defaults."""
    text = b'{"url": "https://example.com", "events": ["*"], "batch": {"max": 500, "withinMs": 1000}}'
    read = msgspec.json.decode(text, type=EndpointConfig)
    assert read == EndpointConfig("https://example.com", ["*"], batch=Batch(500, 1000))
    assert b'"withinMs":1000' in msgspec.json.encode(read)
