"""Messages of Amazon SNS, through which SES reports: whose they are, and what to do with them.

A valid signature proves only that SNS sent a message: anyone may create a topic that posts to our URL. So a message
counts only if it is from a topic of the settings. Source: the SNS Developer Guide, "Verifying the signatures of Amazon
SNS messages".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

from services.ingest.hooks.certificates import Certificates, Fetch, is_certificate_url, is_confirmation_url
from services.ingest.hooks.signatures import Delivery, SignatureError

_TYPE = "X-Amz-Sns-Message-Type"
_RAW = "X-Amz-Sns-Rawdelivery"
_HASHES: dict[str, HashAlgorithm] = {"1": SHA1(), "2": SHA256()}  # noqa: S303 -- SNS's version 1 signs a SHA-1

MessageType = Literal["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"]


class SnsMessage(msgspec.Struct, frozen=True):
    """The envelope of SNS, with the names that it has there."""

    Type: MessageType
    MessageId: str
    TopicArn: str
    Message: str
    Timestamp: str
    SignatureVersion: str
    Signature: str
    SigningCertURL: str
    Subject: str | None = None
    SubscribeURL: str = ""
    Token: str = ""

    def signed(self) -> bytes:
        """Return the text that SNS signs: names and values of these fields, a line each."""
        return "".join(f"{name}\n{value}\n" for name, value in self._signed_fields()).encode("utf-8", "surrogatepass")

    def _signed_fields(self) -> Iterator[tuple[str, str]]:
        yield "Message", self.Message
        yield "MessageId", self.MessageId
        if self.Type == "Notification":
            if self.Subject is not None:
                yield "Subject", self.Subject
        else:
            yield "SubscribeURL", self.SubscribeURL
        yield "Timestamp", self.Timestamp
        if self.Type != "Notification":
            yield "Token", self.Token
        yield "TopicArn", self.TopicArn
        yield "Type", self.Type


_decoder = msgspec.json.Decoder(SnsMessage)


class SnsChecker:
    """Checks messages of some topics, and confirms their subscriptions."""

    def __init__(self, topics: frozenset[str], fetch: Fetch) -> None:
        self._topics = topics
        self._fetch = fetch
        self._certificates = Certificates(fetch)

    async def check(self, delivery: Delivery) -> SnsMessage:
        """Return the genuine message; raises SignatureError, and AmazonError if the certificate cannot be fetched."""
        message = self._read(delivery)
        algorithm = _HASHES.get(message.SignatureVersion)
        if algorithm is None:
            raise SignatureError("its SignatureVersion is unknown")
        key = await self._certificates.key_of(message.SigningCertURL)
        try:
            signature = base64.b64decode(message.Signature, validate=True)
            key.verify(signature, message.signed(), PKCS1v15(), algorithm)
        except (binascii.Error, ValueError, InvalidSignature):
            raise SignatureError("its signature is wrong") from None
        except UnsupportedAlgorithm:
            raise SignatureError("this machine does not support SHA-1: set the topic's SignatureVersion to 2") from None
        return message

    async def confirm(self, message: SnsMessage) -> None:
        """Confirm the subscription that a genuine message is about; raises SignatureError and AmazonError."""
        if not is_confirmation_url(message.SubscribeURL):
            raise SignatureError("its SubscribeURL is not on an SNS host")
        await self._fetch(message.SubscribeURL)

    def _read(self, delivery: Delivery) -> SnsMessage:
        """Return the message if all but its signature is right."""
        if not self._topics:
            raise SignatureError("no topic is allowed: set KURIR_SES_TOPIC_ARNS")
        if delivery.headers.get(_RAW, "").lower() == "true":
            raise SignatureError("it is not signed: turn off raw message delivery for this subscription")
        try:
            message = _decoder.decode(delivery.body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise SignatureError("it is not a message of Amazon SNS") from None
        if delivery.headers.get(_TYPE) != message.Type:
            raise SignatureError(f"its {_TYPE} is not the type in its body")
        if message.TopicArn not in self._topics:
            raise SignatureError("it is from a topic that KURIR_SES_TOPIC_ARNS does not list")
        if not is_certificate_url(message.SigningCertURL):
            raise SignatureError("its SigningCertURL is not a certificate on an SNS host")
        return message
