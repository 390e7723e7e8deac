"""Fetches from Amazon SNS: the certificates that it signs with, and the pages that confirm a subscription.

A message names both URLs, and anyone can write a message. So only HTTPS URLs of SNS hosts are fetched, redirects are
not followed, and answers are bounded.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable
from typing import Protocol

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from shared.errors import KurirError

_HOST = r"https://sns\.[a-z0-9-]{1,40}\.amazonaws\.com(?:\.cn)?/"
_CERTIFICATE = re.compile(_HOST + r"SimpleNotificationService-[A-Za-z0-9]{1,80}\.pem")
_PAGE = re.compile(_HOST + r"\?[!-~]{1,2000}")
_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_MOST_BYTES = 64 * 1024
_KEPT_S = 24 * 3600.0
_FAILED_S = 5.0
_MOST_KEPT = 16


class AmazonError(KurirError):
    """Amazon could not be asked, so a message cannot be checked now."""


class Fetch(Protocol):
    """Fetches a URL."""

    async def __call__(self, url: str) -> bytes:
        """Return the answer's body; raises AmazonError."""
        ...


class AmazonFetch:
    """Fetches over HTTPS; the caller has checked the URL."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._context: ssl.SSLContext | None = None

    async def __call__(self, url: str) -> bytes:
        """Return the body of an answer 200, of at most 64 KB; raises AmazonError."""
        if self._context is None:
            self._context = await asyncio.to_thread(ssl.create_default_context)
        try:
            async with self._session.get(url, allow_redirects=False, timeout=_TIMEOUT, ssl=self._context) as answer:
                body = await _start_of(answer.content)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise AmazonError(f"Amazon SNS cannot be reached: {type(error).__name__}") from error
        if answer.status != 200 or len(body) > _MOST_BYTES:
            raise AmazonError(f"Amazon SNS answered {answer.status} with {len(body)} bytes")
        return body


async def _start_of(content: aiohttp.StreamReader) -> bytes:
    """Return a body, or its beginning of more than _MOST_BYTES if it is longer."""
    body = b""
    while len(body) <= _MOST_BYTES and (chunk := await content.readany()):
        body += chunk
    return body


def is_certificate_url(url: str) -> bool:
    """Return whether a URL is that of a signing certificate of SNS."""
    return _CERTIFICATE.fullmatch(url) is not None


def is_confirmation_url(url: str) -> bool:
    """Return whether a URL is a page of an SNS host; it has printable ASCII only."""
    return _PAGE.fullmatch(url) is not None


class Certificates:
    """The public keys of certificates, kept for a day; a failure is kept for seconds, so that a burst asks once."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._kept: dict[str, tuple[float, RSAPublicKey | AmazonError]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def key_of(self, url: str) -> RSAPublicKey:
        """Return the public key of the certificate at a URL that `is_certificate_url`; raises AmazonError."""
        found = self._known(url)
        if found is None:
            async with self._one_at_a_time:
                found = self._known(url) or await self._load(url)
        if isinstance(found, AmazonError):
            raise found
        return found

    def _known(self, url: str) -> RSAPublicKey | AmazonError | None:
        until, found = self._kept.get(url, (0.0, None))
        return found if self._clock() < until else None

    async def _load(self, url: str) -> RSAPublicKey | AmazonError:
        found: RSAPublicKey | AmazonError
        try:
            found = _key(await self._fetch(url))
        except AmazonError as error:
            found = error
        while len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        kept_s = _FAILED_S if isinstance(found, AmazonError) else _KEPT_S
        self._kept[url] = self._clock() + kept_s, found
        return found


def _key(pem: bytes) -> RSAPublicKey:
    try:
        key = x509.load_pem_x509_certificate(pem).public_key()
    except ValueError as error:
        raise AmazonError("Amazon SNS answered with something that is not a certificate") from error
    if not isinstance(key, RSAPublicKey):
        raise AmazonError("the certificate of Amazon SNS has no RSA key")
    return key
