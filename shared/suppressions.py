"""A suppression: why an address gets no messages, its scope, its start and its end.

An address may have one suppression of each scope. If it unsubscribes and bounces later, it has both, so lifting the
bounce does not lift the opt-out.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from shared.errors import OPTED_OUT_REASON

Scope = Literal["all", "marketing"]
Source = Literal["api", "bounce", "complaint", "import", "opt_out", "unsubscribe"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SOURCES: tuple[Source, ...] = get_args(Source)

HARD_BOUNCE = "hard_bounce"
UNSUBSCRIBED = "unsubscribed"
# a recipient who opted out of offers still gets order confirmations
_MARKETING_SOURCES = frozenset({"complaint", "opt_out", "unsubscribe"})
_SOURCE_OF_REASON: dict[str, Source] = {HARD_BOUNCE: "bounce", OPTED_OUT_REASON: "opt_out", UNSUBSCRIBED: "unsubscribe"}


class Suppression(msgspec.Struct, frozen=True, array_like=True):
    """One suppression of an address; the queue's scripts read the first five fields by position.

    `scope` is which messages it stops. Times are milliseconds since the epoch; `created_at_ms` is 0 if unknown,
    `expires_at_ms` 0 for never. The evidence is the job that led to it, the text of the provider or of the person who
    added it, and the name of the API key used; each may be "".
    """

    scope: Scope
    source: Source
    reason: str
    created_at_ms: int = 0
    expires_at_ms: int = 0
    job_id: str = ""
    words: str = ""
    by: str = ""

    def holds_at(self, now_ms: int) -> bool:
        """Return whether the suppression has not expired at `now_ms`."""
        return not self.expires_at_ms or self.expires_at_ms > now_ms


def scope_of(source: Source) -> Scope:
    """Return the default scope for a source."""
    return "marketing" if source in _MARKETING_SOURCES else "all"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Suppression])
_one_decoder = msgspec.msgpack.Decoder(Suppression)


def pack_suppression(one: Suppression) -> bytes:
    """Pack one suppression for the script that stores it."""
    return _encoder.encode(one)


def unpack_suppression(raw: bytes) -> Suppression:
    """Unpack what `pack_suppression` packed."""
    return _one_decoder.decode(raw)


def unpack_suppressions(raw: bytes) -> list[Suppression]:
    """Return the stored suppressions of an address; an earlier version stored only a reason as text.

    UTF-8 text never begins with the first byte of a packed list.
    """
    if raw[:1] in {b"\x91", b"\x92"}:
        return _decoder.decode(raw)
    reason = raw.decode("utf-8", "replace")
    sources = (one for word, one in _SOURCE_OF_REASON.items() if reason.startswith(word))
    source: Source = next(sources, "api")
    return [Suppression(scope_of(source), source, reason)]
