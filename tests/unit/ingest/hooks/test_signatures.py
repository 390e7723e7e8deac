"""Signatures over the raw body, for each provider: right, wrong, missing, of another body, with any bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from multidict import CIMultiDict

from services.ingest.hooks.signatures import (
    Delivery,
    SignatureError,
    check_login,
    check_mailgun,
    check_meta,
    check_qiscus,
    check_sendgrid,
    check_standard,
    same_secret,
)
from shared.queue.receipts import TOKEN_VALID_S
from tests.unit.ingest.hooks import signers

NOW_S = 1_795_900_000.0
SECRET = "a secret of a provider"
STANDARD = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
SENDGRID = signers.SendGrid()
BODIES = {
    "ascii": b'{"statuses": [{"id": "wamid.1", "status": "read"}]}',
    "non-ascii": '{"words":"Ungültige Empfänger 📮","more":"\\u00fc"}'.encode(),
    "not json": b"\xff\xfe\x00 not even text",
    "empty": b"",
    "large": b'{"words":"' + "ü".encode() * 1_500_000 + b'"}',
}

Sign = Callable[[bytes], Mapping[str, str]]
Check = Callable[[Delivery], object]


def public_key(text: str) -> EllipticCurvePublicKey:
    key = load_der_public_key(base64.b64decode(text))
    assert isinstance(key, EllipticCurvePublicKey)
    return key


SCHEMES: dict[str, tuple[Sign, Check, tuple[str, ...]]] = {
    "meta": (partial(signers.meta, SECRET), partial(check_meta, SECRET), ("X-Hub-Signature-256",)),
    "qiscus": (partial(signers.qiscus, SECRET), partial(check_qiscus, SECRET), ("qiscus-signature-key",)),
    "resend": (
        lambda body: signers.standard(STANDARD, body, NOW_S),
        partial(check_standard, base64.b64decode(STANDARD.removeprefix("whsec_"))),
        ("svix-id", "svix-timestamp", "svix-signature"),
    ),
    "sendgrid": (
        SENDGRID.sign,
        partial(check_sendgrid, public_key(SENDGRID.public)),
        ("X-Twilio-Email-Event-Webhook-Signature", "X-Twilio-Email-Event-Webhook-Timestamp"),
    ),
}


def delivery(headers: Mapping[str, str], body: bytes, now_s: float = NOW_S) -> Delivery:
    return Delivery(CIMultiDict(headers), body, now_s)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("name", SCHEMES)
def test_a_body_passes_as_it_was_signed_and_not_otherwise(name: str, body: bytes) -> None:
    """The bytes are what counts: a space more, other escapes or another order of the same JSON are refused."""
    sign, check, _ = SCHEMES[name]
    headers = sign(body)
    check(delivery(headers, body))
    others = [body + b" ", body.replace("ü".encode(), b"\\u00fc", 1) if "ü".encode() in body else b" " + body]
    for other in others:
        with pytest.raises(SignatureError, match="its signature is wrong"):
            check(delivery(headers, other))


@pytest.mark.parametrize("name", SCHEMES)
def test_a_missing_or_damaged_header_is_refused(name: str) -> None:
    """Each header is needed; texts that are no signature raise nothing but SignatureError."""
    sign, check, needed = SCHEMES[name]
    body = BODIES["ascii"]
    right = sign(body)
    for header in needed:
        with pytest.raises(SignatureError, match="has no header"):
            check(delivery({key: value for key, value in right.items() if key != header}, body))
        for wrong in ("x", "sha256=", "v1,", "v1, v1,x", "\udcff\udcfe", "é", "=" * 4000, "AAAA", "9" * 5000):
            with pytest.raises(SignatureError):
                check(delivery({**right, header: wrong}, body))


@pytest.mark.parametrize("name", SCHEMES)
def test_another_secret_is_refused(name: str) -> None:
    """A request that was signed with another secret is refused, and its error names the setting to check."""
    body = BODIES["ascii"]
    foreign: dict[str, Mapping[str, str]] = {
        "meta": signers.meta("another", body),
        "qiscus": signers.qiscus("another", body),
        "resend": signers.standard("whsec_" + base64.b64encode(b"x" * 24).decode(), body, NOW_S),
        "sendgrid": signers.SendGrid().sign(body),
    }
    with pytest.raises(SignatureError, match=r"check KURIR_[A-Z]+_\w+"):
        SCHEMES[name][1](delivery(foreign[name], body))


def test_the_example_of_sendgrids_library_passes() -> None:
    """The key, signature, timestamp and payload are those of the tests of SendGrid's own libraries."""
    key = (
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFce"
        "Eu/1FwCM/QmGUhA=="
    )
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": "MEUCIQCtIHJeH93Y+qpYeWrySphQgpNGNr/U+UyUlBkU6n7RAwIgJTz2C+8a8xonZGi6"
        "BpSzoQsbVRamr2nlxFDWYNH2j/0=",
        "X-Twilio-Email-Event-Webhook-Timestamp": "1588788367",
    }
    payload = b'{"category":"example_payload","event":"test_event","message_id":"message_id"}'
    check_sendgrid(public_key(key), delivery(headers, payload))


def test_the_example_of_svixs_manual_passes() -> None:
    """The secret, headers and payload are those of "Verifying Webhooks Manually"."""
    headers = {
        "svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "svix-timestamp": "1614265330",
        "svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    check_standard(secret, delivery(headers, b'{"test": 2432232314}', 1614265330))


def test_a_standard_signature_may_be_one_of_several() -> None:
    """While a secret is rotated, the header has a signature for each, and others of unknown versions."""
    body = BODIES["non-ascii"]
    headers = dict(signers.standard(STANDARD, body, NOW_S))
    headers["svix-signature"] = "v1a,AAAA v1,bm90IGl0 " + headers["svix-signature"]
    SCHEMES["resend"][1](delivery(headers, body))


@pytest.mark.parametrize(("late_s", "passes"), [(-299, True), (299, True), (-302, False), (302, False)])
def test_a_standard_signature_holds_for_five_minutes(late_s: float, passes: bool) -> None:
    """An old one may be a replay; one from the future is signed by a wrong clock."""
    body = BODIES["ascii"]
    given = delivery(signers.standard(STANDARD, body, NOW_S - late_s), body)
    if passes:
        SCHEMES["resend"][1](given)
    else:
        with pytest.raises(SignatureError, match="five minutes"):
            SCHEMES["resend"][1](given)


def mailgun_body(signature: Any) -> bytes:
    return json.dumps(
        {"signature": signature, "event-data": {"event": "failed", "recipient": "ü@example.com"}}
    ).encode()


def test_mailgun_signs_a_token_that_may_be_used_once() -> None:
    """The token and its time come back, so that the same token of another body can be recognised."""
    signed = signers.mailgun(SECRET, NOW_S)
    once = check_mailgun(SECRET, delivery({}, mailgun_body(signed)))
    assert (once.token, once.signed_at_s) == (signed["token"], int(NOW_S))
    number = signed | {"timestamp": int(NOW_S)}
    assert check_mailgun(SECRET, delivery({}, mailgun_body(number))) == once
    other = check_mailgun(SECRET, delivery({}, mailgun_body(signers.mailgun(SECRET, NOW_S, "another"))))
    assert once.place("mailgun") != other.place("mailgun")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "Multipart/Form-Data; boundary=x"])
def test_a_form_of_mailgun_is_refused_with_what_to_do(kind: str) -> None:
    """Legacy webhooks and routes post forms; the health shows where the URL belongs."""
    with pytest.raises(SignatureError, match="legacy webhook: add the URL under Sending → Webhooks instead"):
        check_mailgun(SECRET, delivery({"Content-Type": kind}, b"event=delivered&token=t&signature=s"))


def test_mailguns_signature_of_the_main_account_passes() -> None:
    """For a subaccount's message Mailgun adds `parent-signature`; either may be of our key."""
    parent = signers.mailgun(SECRET, NOW_S)
    signature = signers.mailgun("the subaccount's", NOW_S) | {"parent-signature": parent["signature"]}
    assert check_mailgun(SECRET, delivery({}, mailgun_body(signature))).token == parent["token"]


@pytest.mark.parametrize(
    "signature",
    [
        signers.mailgun("another", NOW_S),
        signers.mailgun(SECRET, NOW_S) | {"token": "another"},
        signers.mailgun(SECRET, NOW_S) | {"timestamp": str(int(NOW_S) + 1)},
        signers.mailgun(SECRET, NOW_S) | {"timestamp": "9" * 5000},
        signers.mailgun(SECRET, NOW_S) | {"signature": "ü"},
        signers.mailgun(SECRET, NOW_S - TOKEN_VALID_S - 1),
        signers.mailgun(SECRET, NOW_S + TOKEN_VALID_S + 1),
        {},
        None,
        "text",
        [1],
    ],
)
def test_a_wrong_signature_of_mailgun_is_refused(signature: Any) -> None:
    """A wrong, old, missing or malformed one raises SignatureError."""
    with pytest.raises(SignatureError):
        check_mailgun(SECRET, delivery({}, mailgun_body(signature)))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"signature":"\\ud800"}'])
def test_a_body_that_is_not_mailguns_is_refused(body: bytes) -> None:
    """Whatever the bytes, the error is SignatureError."""
    with pytest.raises(SignatureError, match="no `signature`"):
        check_mailgun(SECRET, delivery({}, body))


def test_a_login_is_compared_as_a_whole() -> None:
    """User and password of the URL pass, a colon and non-ASCII letters included; anything else is asked to log in."""
    login = "kurir:pä:ss"
    check = partial(check_login, login, "KURIR_BREVO_HOOK_LOGIN")
    check(delivery(signers.basic(login), b""))
    check(delivery({"authorization": signers.basic(login)["Authorization"].replace("Basic", "BASIC")}, b""))
    wrong = ["", "Bearer x", "Basic", "Basic !", "Basic \udcff", signers.basic("kurir:other")["Authorization"]]
    for header in (*wrong, signers.basic("kurir")["Authorization"], signers.basic(login + "x")["Authorization"]):
        with pytest.raises(SignatureError, match="KURIR_BREVO_HOOK_LOGIN") as raised:
            check(delivery({"Authorization": header}, b""))
        assert raised.value.basic


def test_secrets_are_compared_whatever_their_characters() -> None:
    """A path may have any bytes, which must not raise."""
    assert same_secret("a-token", "a-token")
    for other in ("", "a-toke", "a-token ", "ü", "\udcff"):
        assert not same_secret("a-token", other)
