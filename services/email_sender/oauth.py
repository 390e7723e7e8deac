"""Access tokens for XOAUTH2: asked for when they are needed, kept until shortly before they expire, shared.

All connections to a server use one `TokenSource`. However many want a token at once, one request is made, and all get
its answer, be it a token or an error. A token that the server refuses is renewed once; if it refuses the new one too,
that is its answer. Nothing here logs, and no error shows a secret.
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
# how long before its end a token is no longer used; a short-lived one is used for half its life
_MARGIN_S = 60.0
# RFC 6749, 5.1: an answer need not say how long the token lives
_UNSTATED_S = 300.0
# errors that pass: RFC 6749, 4.1.2.1 has them for another endpoint, and Microsoft answers with them here
_PASSING = frozenset({"temporarily_unavailable", "server_error", "slow_down"})


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token, and until when it is used, on the event loop's clock."""

    value: str = field(repr=False)
    until: float


class TokenSource:
    """The tokens of one server's log-in; `timeout_s` bounds a request for one."""

    def __init__(self, settings: OAuthSettings, timeout_s: float, clock: Callable[[], float] | None = None) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._clock = clock or asyncio.get_running_loop().time
        self._refresh_token = settings.refresh_token
        self._token: AccessToken | None = None
        self._asking: asyncio.Task[AccessToken | SendError] | None = None
        self._renewed = False

    async def get(self) -> str:
        """Return a token that is still good for a while.

        Raises UnavailableError where the endpoint cannot be reached or fails, StopChannelError where it refuses us.
        """
        if self._token is None or self._clock() >= self._token.until:
            self._token = await self._ask_once()
        return self._token.value

    def renew(self, refused: str) -> bool:
        """Note that the server refused a token; return whether another is worth trying."""
        if self._token is None:
            return self._renewed  # another connection has been refused it, too
        if self._token.value != refused:
            return True
        self._token = None
        self._renewed = not self._renewed
        return self._renewed

    def accepted(self) -> None:
        """The server took a token: the next refusal is about one that has become stale."""
        self._renewed = False

    async def _ask_once(self) -> AccessToken:
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._forget)
        # a connection that gives up does not take the others' token away
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
        """A 4xx with an error of OAuth's (RFC 6749, 5.2) is a no to us; anything else is an endpoint in trouble."""
        error = answer.get("error")
        if not isinstance(error, str) or not error:
            words = self._veiled(legible(raw, _MOST_WORDS))
            return UnavailableError(f"{self._place} answers HTTP {status} without a token", code="oauth", reply=words)
        said = answer.get("error_description")
        words = self._veiled(legible(f"{error}: {said}" if isinstance(said, str) and said else error, _MOST_WORDS))
        passes = error in _PASSING or status == 429 or status >= 500
        kind, verb = (UnavailableError, "is in trouble") if passes else (StopChannelError, "refuses")
        return kind(f"{self._place} {verb}: {words}", code=f"oauth {legible(error, 60)}")

    def _veiled(self, words: str) -> str:
        """Return words without our secrets, should an endpoint repeat them."""
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
    """Return for how long a token is used that lives `expires_in` seconds, which some write as a text."""
    try:
        lives_s = float(expires_in) if isinstance(expires_in, int | float | str) else _UNSTATED_S
    except ValueError:
        lives_s = _UNSTATED_S
    if not 0 < lives_s < float("inf"):
        lives_s = _UNSTATED_S
    return max(lives_s - _MARGIN_S, lives_s / 2)
