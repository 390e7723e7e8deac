"""Classifies an endpoint's answers, and the ways in which none arrived. Pure.

| outcome | answer |
| --- | --- |
| sent | 2xx, even if its body is endless, late or cut off |
| deferred | 429 or 503 with Retry-After |
| stop | 410: the endpoint is gone for good (Standard Webhooks 1.0) |
| server failed | any other 5xx; a connection lost or no answer in time once the body had begun |
| transient | any other 4xx; 3xx, which is never followed; a status of no known class |
| unavailable | no connection: DNS, TCP, TLS |

A time-out after the hand-over is no uncertain outcome: the receiver knows a repeated delivery by its `webhook-id`.
Words are made here from the parts of an error that cannot have the URL, since aiohttp's texts quote it whole.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import aiohttp
from yarl import URL

from shared.errors import (
    DeferredError,
    SendError,
    ServerFailedError,
    StopChannelError,
    TransientError,
    UnavailableError,
)
from shared.foreign_text import legible
from shared.http_sending.answers import asked_wait_s
from shared.sealing import HIDDEN, without
from shared.sending.provider import Receipt

LONGEST_WORDS = 1000
_LONGEST_QUOTE = 200
_SHORTEST_HIDDEN = 4
_SHORTEST_PART = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response; `raw` has the beginning of its body, as far as it arrived.

    `now_s` is its time of arrival (seconds since the epoch), for a Retry-After with a date.
    """

    status: int
    reason: str = ""
    raw: bytes = b""
    encoding: str = ""
    retry_after: str = ""
    location: str = ""
    now_s: float = 0.0

    @property
    def is_acceptance(self) -> bool:
        """Whether the receiver accepted the delivery."""
        return 200 <= self.status < 300

    @property
    def is_server_failure(self) -> bool:
        """Whether the receiver failed rather than answered."""
        return 500 <= self.status < 600

    def title(self, hidden: Sequence[str] = ()) -> str:
        """Return the status and its reason, without the hidden texts."""
        return f"{self.status} {without(legible(self.reason, _LONGEST_QUOTE), hidden)}".rstrip()

    def words(self, hidden: Sequence[str] = ()) -> str:
        """Return the beginning of the body as text, without the hidden texts."""
        if self.encoding.strip().lower() not in {"", "identity"}:
            return f"({len(self.raw):,} bytes of {legible(self.encoding, 40)})" if self.raw else ""
        # hidden before it is cut, so that no beginning of a secret is left at the end
        return legible(without(legible(self.raw), hidden), LONGEST_WORDS).strip()


def hidden_texts(url: URL, secrets: Sequence[str] = ()) -> list[str]:
    """Return what no log and no answer may show: a URL's path and query, their parts, and the secrets.

    Many services have a token in the URL, and a 404 page quotes it.
    """
    wholes = [url.raw_path_qs, url.path_qs, url.raw_path, url.path, url.raw_query_string, url.query_string]
    parts = [part for path in (url.raw_path, url.path) for part in path.split("/") if len(part) >= _SHORTEST_PART]
    keys = [secret.removeprefix("whsec_") for secret in secrets]
    found = {*wholes, *parts, *url.query.values(), *secrets, *keys}
    # as a page has them, and as PHP writes them in JSON
    found |= {spelt for text in found for spelt in (escape(text), text.replace("/", "\\/"))}
    return [text for text in found if len(text) >= _SHORTEST_HIDDEN]


def receipt_of(answer: Answer, webhook_id: str, hidden: Sequence[str]) -> Receipt:
    """Return the receipt of an accepted delivery."""
    words = answer.words(hidden)
    return Receipt(webhook_id, f"{answer.title(hidden)}: {words}" if words else answer.title(hidden))


def refusal_of(answer: Answer, hidden: Sequence[str]) -> SendError:
    """Return the error for an answer that is no acceptance."""
    code, reply = str(answer.status), answer.words(hidden)
    message = _message(answer, reply, hidden)
    if answer.status == 410:
        return StopChannelError(f"{message} (the endpoint is gone for good)", code=code, reply=reply)
    if 300 <= answer.status < 400:
        return TransientError(message, code=code, reply=reply)
    wait_s = asked_wait_s(answer.retry_after, answer.now_s) if answer.status in {429, 503} else None
    if wait_s is not None:
        return DeferredError(message, code=code, reply=reply, wait_s=wait_s)
    return (ServerFailedError if answer.is_server_failure else TransientError)(message, code=code, reply=reply)


def _message(answer: Answer, reply: str, hidden: Sequence[str]) -> str:
    title = f"the endpoint answered {answer.title(hidden)}"
    if 300 <= answer.status < 400:
        where = _place_of(answer.location)
        hint = f"it leads to {where}" if where else "it names no other place"
        return f"{title}: redirects are not followed; register the URL that answers itself ({hint})"
    quote = legible(" ".join(reply.split()), _LONGEST_QUOTE)
    return f"{title}: {quote}" if quote else title


def _place_of(location: str) -> str:
    """Return scheme, host and port of a redirect's target: the rest may have a token."""
    try:
        url = URL(location)
        if not url.absolute:
            return f"another path ({HIDDEN})" if location.strip() else ""
        return legible(str(url.origin()), _LONGEST_QUOTE)
    except ValueError:
        return "what is no URL"


def loss_of(error: Exception, place: str, *, begun: bool) -> SendError:
    """Return the error for a delivery without an answer; `begun` is whether its body had begun to be sent."""
    if begun:
        return _lost(error)
    if isinstance(error, aiohttp.ClientConnectorError | TimeoutError):
        return _not_connected(error, place)
    if isinstance(error, aiohttp.InvalidURL):
        return StopChannelError("its URL cannot be used", code="address")
    return ServerFailedError(f"{place} closed the connection before the delivery was sent", code="lost")


def _not_connected(error: Exception, place: str) -> SendError:
    # the cause: aiohttp's own text for a bad certificate has no reason, and its time-out's has the URL
    reason = "no connection in time" if isinstance(error, TimeoutError) else _reason(error.__cause__ or error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return UnavailableError(f"{place} cannot be looked up: {reason}", code="dns")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UnavailableError(f"the certificate of {place} is not trusted: {reason}", code="tls")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return UnavailableError(f"no TLS with {place}: {reason}", code="tls")
    return UnavailableError(f"cannot connect to {place}: {reason}", code="connect")


def _lost(error: Exception) -> SendError:
    if isinstance(error, TimeoutError):
        return ServerFailedError("no answer in time", code="timeout")
    if isinstance(error, aiohttp.ClientResponseError):
        return ServerFailedError(f"the answer is not valid HTTP: {_shape(error.message)}", code="unreadable")
    return ServerFailedError("the connection was closed before an answer came", code="lost")


def _shape(message: str) -> str:
    """Return what the parser found wrong; the lines after the first quote the answer."""
    return legible(message.strip().partition("\n")[0].rstrip(":"), _LONGEST_QUOTE) or "it cannot be parsed"


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return legible(str(error), _LONGEST_QUOTE) or type(error).__name__
