"""Filters of suppressions by channel, part of the address, scope, source and reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.ingest.http.errors import Problem
from shared.addresses import ways_written
from shared.channels import CHANNELS
from shared.queue.suppressions import Listed
from shared.suppressions import SCOPES, SOURCES

LONGEST = 320
FIELDS = ("channel", "address", "scope", "source", "reason")
_CHOICES: Mapping[str, Sequence[str]] = {"channel": tuple(CHANNELS), "scope": SCOPES, "source": SOURCES}


@dataclass(frozen=True, slots=True)
class SuppressionFilter:
    """A filter; an empty field matches everything.

    At least one of the `needles` must be part of the address, or all of it if `whole`.
    """

    channels: tuple[str, ...]
    needles: tuple[str, ...] = ()
    scope: str = ""
    source: str = ""
    reason: str = ""
    whole: bool = False

    @property
    def searches(self) -> bool:
        """Whether it filters by more than the channel."""
        return bool(self.needles or self.scope or self.source or self.reason)

    def matches(self, one: Listed) -> bool:
        """Return whether a suppression matches."""
        kept = one.suppression
        return (
            (not self.scope or kept.scope == self.scope)
            and (not self.source or kept.source == self.source)
            and (not self.needles or any(self._names(one.address, needle) for needle in self.needles))
            and (not self.reason or self.reason in kept.reason.casefold())
        )

    def _names(self, address: str, needle: str) -> bool:
        return needle == address if self.whole else needle in address


def read_filter(values: Mapping[str, Any], region: str) -> SuppressionFilter | list[Problem]:
    """Read a filter from its fields, or return their problems; `region` is the country of national phone numbers."""
    given = {name: str(values[name]).strip() for name in FIELDS if values.get(name) is not None}
    problems = [
        Problem(name, "INVALID_VALUE", f"{name} cannot be {given[name][:60]!r}: use {' or '.join(options)}")
        for name, options in _CHOICES.items()
        if given.get(name) and given[name] not in options
    ]
    problems += [
        Problem(name, "TOO_LONG", f"{name} is longer than {LONGEST} characters")
        for name, text in given.items()
        if len(text) > LONGEST
    ]
    if problems:
        return problems
    return SuppressionFilter(
        (given["channel"],) if given.get("channel") else tuple(CHANNELS),
        _needles(given.get("address", ""), region),
        given.get("scope", ""),
        given.get("source", ""),
        given.get("reason", "").casefold(),
    )


def _needles(text: str, region: str) -> tuple[str, ...]:
    """Return the stored forms of a part of an address; a text that cannot be part of one matches nothing."""
    return ways_written(text, region) or ((text,) if text else ())
