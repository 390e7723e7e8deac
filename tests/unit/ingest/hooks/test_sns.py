"""Messages of SNS: both versions of its signature, pinned hosts, listed topics, and subscriptions."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from multidict import CIMultiDict

from services.ingest.hooks.certificates import AmazonError, Certificates, is_certificate_url, is_confirmation_url
from services.ingest.hooks.signatures import Delivery, SignatureError
from services.ingest.hooks.sns import SnsChecker
from tests.unit.ingest.hooks.signers import CERTIFICATE_URL, SUBSCRIBE_URL, TOPIC, Sns, sns_request

SNS = Sns()


class Pages:
    """Answers fetches as SNS does, and counts them."""

    def __init__(self, answer: bytes | AmazonError = SNS.pem) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        await asyncio.sleep(0)
        if isinstance(self.answer, AmazonError):
            raise self.answer
        return self.answer


def delivery(message: dict[str, Any], **headers: str) -> Delivery:
    sent, body = sns_request(message)
    return Delivery(
        CIMultiDict({**sent, **{name.replace("_", "-"): value for name, value in headers.items()}}), body, 0
    )


def checker(pages: Pages) -> SnsChecker:
    return SnsChecker(frozenset({TOPIC, "arn:aws:sns:eu-west-1:123456789012:other"}), pages)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("subject", ["Amazon SES", None, ""])
async def test_both_versions_of_the_signature_pass(version: str, subject: str | None) -> None:
    """SHA-1 and SHA-256, with and without a subject, with any text in the message."""
    text = json.dumps({"notificationType": "Bounce", "words": "größe\n📮\u2028"}, ensure_ascii=False) + "\n"
    found = await checker(Pages()).check(delivery(SNS.message(text, version=version, Subject=subject)))
    assert (found.Type, found.Message) == ("Notification", text)


@pytest.mark.parametrize("field", ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Signature"])
async def test_every_signed_field_counts(field: str) -> None:
    """A change of any of them is noticed; another listed topic is no exception."""
    message = SNS.message()
    changed = message | {
        field: "arn:aws:sns:eu-west-1:123456789012:other" if field == "TopicArn" else "x" + message[field]
    }
    with pytest.raises(SignatureError, match="signature is wrong"):
        await checker(Pages()).check(delivery(changed))


@pytest.mark.parametrize("field", ["Message", "SubscribeURL", "Token", "Timestamp", "MessageId"])
async def test_every_signed_field_of_a_subscription_counts(field: str) -> None:
    """A confirmation has other fields; its URL is one of those that are signed."""
    message = SNS.subscription()
    assert (await checker(Pages()).check(delivery(message))).SubscribeURL == SUBSCRIBE_URL
    with pytest.raises(SignatureError, match="signature is wrong"):
        await checker(Pages()).check(delivery(message | {field: message[field] + "x"}))


async def test_another_key_is_refused() -> None:
    """So is a message signed with a key whose certificate is not the one at its URL."""
    with pytest.raises(SignatureError, match="signature is wrong"):
        await checker(Pages()).check(delivery(Sns().message()))


@pytest.mark.parametrize(
    ("change", "headers", "words"),
    [
        ({"TopicArn": "arn:aws:sns:eu-west-1:666666666666:evil"}, {}, "does not list"),
        ({"SigningCertURL": "https://evil.example.com/SimpleNotificationService-1.pem"}, {}, "SigningCertURL"),
        ({"SignatureVersion": "3"}, {}, "SignatureVersion is unknown"),
        ({}, {"x_amz_sns_message_type": "SubscriptionConfirmation"}, "not the type in its body"),
        ({"Type": "Other"}, {}, "not a message of Amazon SNS"),
        ({}, {"x_amz_sns_rawdelivery": "true"}, "raw message delivery"),
    ],
)
async def test_what_is_wrong_is_refused_before_anything_is_fetched(
    change: dict[str, Any], headers: dict[str, str], words: str
) -> None:
    """A foreign topic with a right signature is refused, like a foreign certificate, without a request to anyone."""
    pages = Pages()
    with pytest.raises(SignatureError, match=words):
        await checker(pages).check(delivery(SNS.message(**change), **headers))
    assert pages.asked == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"Type":1}'])
async def test_other_bodies_are_refused(body: bytes) -> None:
    """Whatever the bytes, the error is SignatureError; without a topic in the settings nothing is accepted."""
    with pytest.raises(SignatureError, match="not a message"):
        await checker(Pages()).check(Delivery({}, body, 0))
    with pytest.raises(SignatureError, match="set KURIR_SES_TOPIC_ARNS"):
        await SnsChecker(frozenset(), Pages()).check(delivery(SNS.message()))


HOSTS: dict[str, bool] = {
    "https://sns.eu-west-1.amazonaws.com": True,
    "https://sns.us-gov-west-1.amazonaws.com": True,
    "https://sns.cn-north-1.amazonaws.com.cn": True,
    "http://sns.eu-west-1.amazonaws.com": False,
    "https://sns.eu-west-1.amazonaws.com:8443": False,
    "https://user@sns.eu-west-1.amazonaws.com": False,
    "https://sns.eu-west-1.amazonaws.com@evil.example.com": False,
    "https://sns.eu-west-1.amazonaws.com.evil.example.com": False,
    "https://evil.example.com/sns.eu-west-1.amazonaws.com": False,
    "https://sns.evil.com#.amazonaws.com": False,
    "https://s3.eu-west-1.amazonaws.com": False,
    "https://sns.eu-west-1.amazonaws.com\n": False,
    "https://sns.eu-west-1.amazonaws.com\\@evil.example.com": False,
}


@pytest.mark.parametrize(("host", "pinned"), HOSTS.items())
def test_hosts_are_pinned(host: str, pinned: bool) -> None:
    """Only SNS's own hosts are fetched from, over HTTPS, on its port."""
    assert is_certificate_url(f"{host}/SimpleNotificationService-0a1b.pem") is pinned
    assert is_confirmation_url(f"{host}/?Action=ConfirmSubscription&Token=0a1b") is pinned
    for path in ("/SimpleNotificationService-../x.pem", "/other.pem", "/SimpleNotificationService-1.pem?x=1", ""):
        assert not is_certificate_url(host + path)
    for path in ("", "/", "/other?x=1", "/?x=\n"):
        assert not is_confirmation_url(host + path)


async def test_a_subscription_is_confirmed_at_its_own_host_alone() -> None:
    """A URL elsewhere is not fetched even if SNS signed it."""
    pages = Pages()
    checks = checker(pages)
    await checks.confirm(await checks.check(delivery(SNS.subscription())))
    assert pages.asked == [CERTIFICATE_URL, SUBSCRIBE_URL]
    elsewhere = await checks.check(delivery(SNS.subscription(SubscribeURL="https://evil.example.com/?Action=x")))
    with pytest.raises(SignatureError, match="not on an SNS host"):
        await checks.confirm(elsewhere)
    assert len(pages.asked) == 2


async def test_a_burst_fetches_a_certificate_once() -> None:
    """A hundred messages that arrive together wait for one fetch; it is repeated after a day."""
    now = [0.0]
    pages = Pages()
    certificates = Certificates(pages, lambda: now[0])
    keys = await asyncio.gather(*(certificates.key_of(CERTIFICATE_URL) for _ in range(100)))
    assert len({id(key) for key in keys}) == len(pages.asked) == 1
    now[0] = 24 * 3600 + 1
    await certificates.key_of(CERTIFICATE_URL)
    assert len(pages.asked) == 2


@pytest.mark.parametrize("answer", [AmazonError("away"), b"<html>", b""])
async def test_a_failed_fetch_is_not_repeated_for_each_message(answer: bytes | AmazonError) -> None:
    """All that wait get its error, which says that they cannot be checked now; seconds later it is tried again."""
    now = [0.0]
    pages = Pages(answer)
    certificates = Certificates(pages, lambda: now[0])
    failed = await asyncio.gather(*(certificates.key_of(CERTIFICATE_URL) for _ in range(100)), return_exceptions=True)
    assert {type(one) for one in failed} == {AmazonError}
    assert len(pages.asked) == 1
    now[0], pages.answer = 6.0, SNS.pem
    assert (await certificates.key_of(CERTIFICATE_URL)).key_size == 2048


async def test_few_certificates_are_kept() -> None:
    """Messages that name ever new certificates cannot fill the memory."""
    pages = Pages()
    certificates = Certificates(pages)
    urls = [CERTIFICATE_URL.replace("-7506", f"-{number}") for number in range(100)]
    for url in urls:
        await certificates.key_of(url)
    await certificates.key_of(urls[-16])
    assert len(pages.asked) == 100
    await certificates.key_of(urls[-17])
    assert len(pages.asked) == 101
