"""A suppression: why an address gets no messages, how far that goes, since when and until when.

An address may have one suppression of each scope: who has unsubscribed and then bounces has both, so that lifting the
bounce does not take the opt-out along.
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
# a person who is tired of offers still gets an order confirmation
_MARKETING_SOURCES = frozenset({"complaint", "opt_out", "unsubscribe"})
_SOURCE_OF_REASON: dict[str, Source] = {HARD_BOUNCE: "bounce", OPTED_OUT_REASON: "opt_out", UNSUBSCRIBED: "unsubscribe"}


class Suppression(msgspec.Struct, frozen=True, array_like=True):
    """One suppression of an address; the queue's scripts read the first five fields by their places.

    `scope` is what it stops. Times are milliseconds since the epoch: `created_at_ms` 0 where it is not known,
    `expires_at_ms` 0 for never. The evidence: the job that led to it, the words of the provider or of the person
    who gave it, and the name of the API key that set it; "" where there is none.
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
        """Return whether it has not expired."""
        return not self.expires_at_ms or self.expires_at_ms > now_ms


def scope_of(source: Source) -> Scope:
    """Return the scope of a suppression whose scope nobody named."""
    return "marketing" if source in _MARKETING_SOURCES else "all"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Suppression])


def pack_suppression(one: Suppression) -> bytes:
    """Pack one suppression for the script that stores it."""
    return _encoder.encode(one)


def unpack_suppressions(raw: bytes) -> list[Suppression]:
    """Return an address's suppressions as stored; a text is the reason that an earlier version stored alone.

    No text in UTF-8 begins with the byte that a packed list begins with.
    """
    if raw[:1] in {b"\x91", b"\x92"}:
        return _decoder.decode(raw)
    reason = raw.decode("utf-8", "replace")
    sources = (one for word, one in _SOURCE_OF_REASON.items() if reason.startswith(word))
    source: Source = next(sources, "api")
    return [Suppression(scope_of(source), source, reason)]
