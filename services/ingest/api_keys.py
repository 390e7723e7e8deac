"""API keys: who calls, what they may do, and from which addresses they may send.

Only a key's SHA-256 stays in memory. Keys are long random texts, so a fast hash is enough: there is no dictionary
to try. Looking one up compares against every key in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from shared.addresses import identity

Scope = Literal["send", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("send", "read", "admin")
_MIN_LENGTH = 16
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its hash; `senders` are the addresses and domains that it is bound to, by identity."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    senders: frozenset[str] = frozenset()

    def allows(self, scope: Scope) -> bool:
        """Say whether the key may do what needs this scope; `admin` may do everything."""
        return scope in self.scopes or "admin" in self.scopes

    def may_send_from(self, address: str) -> bool:
        """Say whether the key may send from a bare address (`news@example.com`)."""
        if not self.senders:
            return True
        own = identity(address)
        return own in self.senders or own.rpartition("@")[2] in self.senders


class Keyring:
    """All keys; an empty one means that no key is configured."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, token: str) -> ApiKey | None:
        """Return the key with this text, None if there is none; takes equally long for every text."""
        digest = _digest(token)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def parse_key(text: str) -> ApiKey:
    """Read `name:key:scope+scope`, where bound with `@domain+address` after it; raises ValueError.

    The message never contains the key.
    """
    name, first, rest = text.partition(":")
    key, second, grants = rest.rpartition(":")
    if not first or not second:
        raise ValueError("is not name:key:scope+scope")
    if not _NAME.fullmatch(name):
        raise ValueError("the name must be 1 to 64 letters, digits, dots, dashes or underscores")
    if len(key) < _MIN_LENGTH:
        raise ValueError(f"the key of {name} is shorter than {_MIN_LENGTH} characters")
    scope_text, bound, sender_text = grants.partition("@")
    scopes = scope_text.split("+")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise ValueError(f"{name} has a scope other than {', '.join(SCOPES)}")
    senders = frozenset(identity(sender.strip()) for sender in sender_text.split("+") if sender.strip())
    if bound and not senders:
        raise ValueError(f"{name} is bound to no address or domain")
    return ApiKey(name, _digest(key), frozenset(cast("list[Scope]", scopes)), senders)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
