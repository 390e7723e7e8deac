"""Access tokens for XOAUTH2: requested when needed, cached until shortly before they expire, and shared.

All connections to a server use one `TokenSource`. Connections that need a token at the same time share one request and
its result, a token or an error. A token that the server refuses is renewed once; a second refusal is final. Nothing
here logs, and no error shows a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from services.email_sender.oauth_settings import OAuthSettings
from shared.errors import SendError, StopChannelError, UnavailableError
from shared.foreign_text import legible

_MOST_ANSWER_BYTES = 64 * 1024
_MOST_WORDS = 500
# how long before its expiry a token is no longer used; a short-lived one is used for half its life
_MARGIN_S = 60.0
# RFC 6749, 5.1: the response may omit the token's lifetime
_UNSTATED_S = 300.0
# temporary errors: RFC 6749, 4.1.2.1 defines them for another endpoint, but Microsoft uses them here
_PASSING = frozenset({"temporarily_unavailable", "server_error", "slow_down"})


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token, and the time on the event loop's clock until which it is used."""

    value: str = field(repr=False)
    until: float


class TokenSource:
    """The access tokens for one server; `timeout_s` bounds a token request."""

    def __init__(self, settings: OAuthSettings, timeout_s: float, clock: Callable[[], float] | None = None) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._clock = clock or asyncio.get_running_loop().time
        self._refresh_token = settings.refresh_token
        self._token: AccessToken | None = None
        self._asking: asyncio.Task[AccessToken | SendError] | None = None
        self._renewed = False

    async def get(self) -> str:
        """Return a token that is still valid for a while.

        Raises UnavailableError if the endpoint cannot be reached or fails, StopChannelError if it refuses us.
        """
        if self._token is None or self._clock() >= self._token.until:
            self._token = await self._ask_once()
        return self._token.value

    def renew(self, refused: str) -> bool:
        """Note that the server refused a token; return whether another is worth trying."""
        if self._token is None:
            return self._renewed  # the server refused it to another connection, too
        if self._token.value != refused:
            return True
        self._token = None
        self._renewed = not self._renewed
        return self._renewed

    def accepted(self) -> None:
        """Note that the server accepted a token, so that the next refusal means a stale one and is worth a renewal."""
        self._renewed = False

    async def _ask_once(self) -> AccessToken:
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._forget)
        # shielded: a connection that gives up must not cancel the request of the others
        found = await asyncio.shield(self._asking)
        if isinstance(found, SendError):
            raise type(found)(found.message, code=found.code, reply=found.reply)
        return found

    def _forget(self, _task: object) -> None:
        self._asking = None

    async def _ask(self) -> AccessToken | SendError:
        try:
            async with asyncio.timeout(self._timeout_s):
                status, raw = await self._post()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: a host beyond IDNA
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            return UnavailableError(f"{self._place}: {self._veiled(reason)}", code="oauth")
        answer = _object(raw)
        value = answer.get("access_token")
        if status == 200 and isinstance(value, str) and value and value.isascii() and value.isprintable():
            rotated = answer.get("refresh_token")
            if self._refresh_token and isinstance(rotated, str) and rotated:
                self._refresh_token = rotated
            return AccessToken(value, self._clock() + _used_for_s(answer.get("expires_in")))
        return self._refusal(status, answer, raw)

    @property
    def _place(self) -> str:
        return f"the token endpoint {self._settings.token_url}"

    async def _post(self) -> tuple[int, bytes]:
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.post(
                self._settings.token_url,
                data=self._settings.form(self._refresh_token),
                headers={"Accept": "application/json"},
                allow_redirects=False,
            ) as response,
        ):
            raw = bytearray()
            async for chunk in response.content.iter_chunked(_MOST_ANSWER_BYTES):
                raw += chunk
                if len(raw) >= _MOST_ANSWER_BYTES:
                    break
            return response.status, bytes(raw[:_MOST_ANSWER_BYTES])

    def _refusal(self, status: int, answer: Mapping[str, Any], raw: bytes) -> SendError:
        """Return StopChannelError for an OAuth error (RFC 6749, 5.2) that is not temporary, else UnavailableError."""
        error = answer.get("error")
        if not isinstance(error, str) or not error:
            words = self._veiled(legible(raw, _MOST_WORDS))
            return UnavailableError(f"{self._place} answered HTTP {status} without a token", code="oauth", reply=words)
        said = answer.get("error_description")
        words = self._veiled(legible(f"{error}: {said}" if isinstance(said, str) and said else error, _MOST_WORDS))
        passes = error in _PASSING or status == 429 or status >= 500
        kind, verb = (UnavailableError, "fails") if passes else (StopChannelError, "refuses us")
        return kind(f"{self._place} {verb}: {words}", code=f"oauth {legible(error, 60)}")

    def _veiled(self, words: str) -> str:
        """Return words without our secrets, in case an endpoint repeats them."""
        settings = self._settings
        for secret in (settings.client_secret, settings.refresh_token, self._refresh_token):
            words = words.replace(secret, "***") if secret else words
        return words


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _used_for_s(expires_in: object) -> float:
    """Return how long to use a token that lives `expires_in` seconds, which some endpoints write as a string."""
    try:
        lives_s = float(expires_in) if isinstance(expires_in, int | float | str) else _UNSTATED_S
    except ValueError:
        lives_s = _UNSTATED_S
    if not 0 < lives_s < float("inf"):
        lives_s = _UNSTATED_S
    return max(lives_s - _MARGIN_S, lives_s / 2)
