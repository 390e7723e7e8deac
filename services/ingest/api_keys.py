"""API keys: they identify a caller, its scopes, and the addresses it may send from.

Only a key's SHA-256 stays in memory. Keys are long random strings, so a fast hash is enough: a dictionary attack is
hopeless. A lookup compares with every key, in constant time.
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
Grant = Literal[Scope, "read-masked"]
GRANTS: tuple[Grant, ...] = (*SCOPES, "read-masked")
_MIN_LENGTH = 16
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, stored as its hash; `senders` are the addresses and domains that it is bound to, by identity.

    `read-masked` reads what `read` reads, with the recipients masked, unless the key has `read` or `admin` as well.
    """

    name: str
    digest: bytes
    scopes: frozenset[Grant]
    senders: frozenset[str] = frozenset()

    def allows(self, scope: Scope) -> bool:
        """Return whether the key has this scope; `admin` includes every other."""
        return bool(self.scopes & ({scope, "admin"} | ({"read-masked"} if scope == "read" else set())))

    @property
    def sees_recipients(self) -> bool:
        """Whether answers name recipients to this key."""
        return not self.scopes.isdisjoint({"read", "admin"})

    def grants(self) -> list[Grant]:
        """Return what the key may do, as its owner would write it; all scopes for `admin`."""
        masked = not self.sees_recipients
        return ["read-masked" if one == "read" and masked else one for one in SCOPES if self.allows(one)]

    def may_send_from(self, address: str) -> bool:
        """Return whether the key may send from a bare address (`news@example.com`)."""
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
        """Return the key with this text, None for an unknown one; takes the same time for every text."""
        digest = _digest(token)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def named(self, name: str) -> ApiKey | None:
        """Return the key with this name, None for an unknown one."""
        return next((key for key in self._keys if key.name == name), None)


def parse_key(text: str) -> ApiKey:
    """Read `name:key:scope+scope`, optionally followed by `@domain+address` to bind it; raises ValueError.

    The error's message never contains the key.
    """
    name, first, rest = text.partition(":")
    key, second, grants = rest.rpartition(":")
    if not first or not second:
        raise ValueError("must be written as name:key:scope+scope")
    if not _NAME.fullmatch(name):
        raise ValueError("the name must be 1 to 64 letters, digits, dots, dashes or underscores")
    if len(key) < _MIN_LENGTH:
        raise ValueError(f"the key of {name} is shorter than {_MIN_LENGTH} characters")
    scope_text, bound, sender_text = grants.partition("@")
    scopes = scope_text.split("+")
    unknown = [scope for scope in scopes if scope not in GRANTS]
    if unknown:
        raise ValueError(f"{name} has an unknown scope; use {', '.join(GRANTS)}")
    senders = frozenset(identity(sender.strip()) for sender in sender_text.split("+") if sender.strip())
    if bound and not senders:
        raise ValueError(f"{name} has an @ without an address or domain after it")
    return ApiKey(name, _digest(key), frozenset(cast("list[Grant]", scopes)), senders)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
