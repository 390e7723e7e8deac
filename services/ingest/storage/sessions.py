"""Sessions: who is signed in to the console. A browser holds a random token, Redis holds whose it is.

The token is sent as a cookie. It contains no key, only a random id, the end of the session, and a code that only this
system can make, so that a flood of invented tokens is refused without asking Redis. Redis knows the id by its hash and
forgets the session at its end. A session gives what its API key gives, and only while that key is configured.

What Redis said is believed for a few seconds, and for the rest of the session while Redis is away: the console must
open when the queue is in trouble.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass

import orjson
from redis.asyncio import Redis

from services.ingest.api_keys import ApiKey, Keyring
from shared.clock import Clock
from shared.errors import QueueFullError, QueueUnavailableError
from shared.queue.connection import translated

SESSION_MS = 12 * 3600 * 1000
_ID_BYTES, _END_BYTES, _CODE_BYTES = 18, 8, 16
_PURPOSE = b"kurir session"
_BELIEVED_S = 5.0
_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """A session: the token for the cookie, the key that it acts for, and its end in ms since the epoch."""

    token: str
    key: ApiKey
    ends_ms: int


@dataclass(frozen=True, slots=True)
class _Known:
    """What Redis said of a session: its key's name and digest in hex, both "" where it has ended, and when."""

    name: str
    digest: str
    asked_at: float


class Sessions:
    """The sessions in Redis; `secret` authenticates tokens, `lifetime_ms` is how long a session lasts."""

    def __init__(
        self, redis: Redis, secret: str, keyring: Keyring, clock: Clock, lifetime_ms: int = SESSION_MS
    ) -> None:
        self._redis = redis
        self._secret = hashlib.blake2b(secret.encode(), digest_size=32, person=_PURPOSE).digest()
        self._keyring = keyring
        self._clock = clock
        self._lifetime_ms = lifetime_ms
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def begin(self, key: ApiKey) -> Session:
        """Begin a session of this key."""
        ends_ms = self._clock.now_ms() + self._lifetime_ms
        body = secrets.token_bytes(_ID_BYTES) + ends_ms.to_bytes(_END_BYTES, "big")
        token = base64.urlsafe_b64encode(body + self._code(body)).decode()
        with translated("begin session"):
            value = orjson.dumps([key.name, key.digest.hex()])
            await self._redis.set(_record(body), value, px=self._lifetime_ms)
        return Session(token, key, ends_ms)

    async def find(self, token: str, *, is_away: bool = False) -> Session | None:
        """Return the session of a token, None if it is invalid or has ended.

        With `is_away` Redis is known not to answer: a session that this process knows is believed without asking.
        Raises QueueUnavailableError if Redis is away and this process does not know the session.
        """
        body = self._body(token)
        if body is None:
            return None
        known = await self._ask(_record(body), is_away)
        key = self._keyring.named(known.name)
        # a key that was replaced under the same name has another digest
        if key is None or key.digest.hex() != known.digest:
            return None
        return Session(token, key, _end(body))

    async def end(self, token: str) -> None:
        """End a session, in every ingest process within seconds. Safe to repeat."""
        body = self._body(token)
        if body is None:
            return
        with translated("end session"):
            await self._redis.unlink(_record(body))
        self._known.pop(_record(body), None)

    def _body(self, token: str) -> bytes | None:
        """Return the part of the token that its code vouches for; None for a forged or expired one."""
        try:
            raw = base64.b64decode(token.encode(), b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        body, code = raw[:-_CODE_BYTES], raw[-_CODE_BYTES:]
        if len(body) != _ID_BYTES + _END_BYTES or not hmac.compare_digest(code, self._code(body)):
            return None
        return body if _end(body) > self._clock.now_ms() else None

    def _code(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._secret, digest_size=_CODE_BYTES).digest()

    async def _ask(self, record: str, is_away: bool) -> _Known:
        known, now = self._known.get(record), self._clock.monotonic()
        if known is not None and (is_away or now - known.asked_at < _BELIEVED_S):
            return known
        try:
            with translated("session"):
                found = await self._redis.get(record)
        except (QueueUnavailableError, QueueFullError):
            if known is None:
                raise
            return known
        name, digest = orjson.loads(found) if found else ("", "")
        self._known[record] = _Known(name, digest, now)
        self._known.move_to_end(record)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._known[record]


def _end(body: bytes) -> int:
    return int.from_bytes(body[_ID_BYTES:], "big")


def _record(body: bytes) -> str:
    return f"ingest:session:{hashlib.sha256(body).hexdigest()[:40]}"
