"""Ids of blasts: sorted by time, short because every queued job carries one, hard to guess."""

from __future__ import annotations

import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH_MS = 1_577_836_800_000
_TIME_DIGITS = 8
_RANDOM_DIGITS = 8


def new_blast_id(now_ms: int) -> str:
    """Return a new id of 16 letters and digits: 40 bits of time since 2020 in ms, then 40 random bits."""
    return _base32(now_ms - _EPOCH_MS, _TIME_DIGITS) + _base32(secrets.randbits(5 * _RANDOM_DIGITS), _RANDOM_DIGITS)


def _base32(number: int, digits: int) -> str:
    return "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in reversed(range(digits)))
