"""What a reader finds in one body: it collects receipts, counts events of no interest, and keeps the problems."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from services.receipts.providers.fields import (
    LONGEST_ADDRESS,
    LONGEST_CODE,
    LONGEST_WORDS,
    UnreadableError,
    each,
    moment,
    parse_json,
    text,
)
from services.receipts.reading import Reader, Reading
from shared.receipts import Receipt, ReceiptKind, Severity

_MOST_PROBLEMS = 3
# problems are logged, so they quote no address and no sentence
_KIND = re.compile(r"[A-Za-z0-9_.-]+")


class Message(msgspec.Struct, frozen=True, gc=False):
    """The message that an event is about: the ids that name it, and the address that the event names."""

    job_id: str = ""
    message_id: str = ""
    provider_id: str = ""
    address: str = ""

    @property
    def is_named(self) -> bool:
        """Whether any id names it; an address alone does not."""
        return bool(self.job_id or self.message_id or self.provider_id)


class Found:
    """The contents of one body of `source`, which was taken at `taken_at`."""

    def __init__(self, source: str, taken_at: float) -> None:
        self._source = source
        self._taken_at = taken_at
        self._receipts: list[Receipt] = []
        self._ignored = 0
        self._problems: list[str] = []

    def add(
        self, kind: ReceiptKind, message: Message, at: Any, reply: tuple[Any, Any] = ("", ""), severity: Severity = ""
    ) -> None:
        """Add a receipt; `at` is the time as the provider wrote it, `reply` the code and words.

        An opt-out or opt-in may name only an address. Any other event that names no message is a problem.
        """
        if not message.is_named and not (kind in {"opted_out", "opted_in"} and message.address):
            self.problem(f"an event of the kind {kind} names no message")
            return
        seconds = moment(at, self._taken_at)
        self._receipts.append(
            Receipt(
                kind,
                self._source,
                seconds,
                message.job_id,
                message.message_id,
                message.provider_id,
                message.address if len(message.address) <= LONGEST_ADDRESS else text(message.address, LONGEST_ADDRESS),
                severity,
                text(reply[0], LONGEST_CODE) if reply[0] != "" else "",
                text(reply[1], LONGEST_WORDS) if reply[1] != "" else "",
                trusted=True,
                timed=seconds != self._taken_at,
            )
        )

    def ignore(self, count: int = 1) -> None:
        """Count events that are known and of no interest."""
        self._ignored += count

    def problem(self, why: str) -> None:
        """Keep why a part of the body cannot be read; the first few different ones are kept."""
        if why not in self._problems and len(self._problems) < _MOST_PROBLEMS:
            self._problems.append(why)

    def unknown(self, what: str, value: Any) -> None:
        """Keep an event of an unknown kind as a problem, which quotes the kind only if it looks like one."""
        named = text(value, LONGEST_CODE)
        quoted = f" {named}" if _KIND.fullmatch(named) else ""
        self.problem(f"unknown {what}{quoted}" if named else f"an event has no {what}")

    def reading(self) -> Reading:
        """Return all of it."""
        return Reading(self._receipts, self._ignored, "; ".join(self._problems))


def reader(source: str, walk: Callable[[Any, Found], None]) -> Reader:
    """Return a reader of JSON bodies: `walk` goes through the value and adds what it finds."""

    def read(body: bytes, taken_at: float) -> Reading:
        try:
            value = parse_json(body)
        except UnreadableError as error:
            return Reading(problem=str(error))
        found = Found(source, taken_at)
        walk(value, found)
        return found.reading()

    return read


def reader_of_events(source: str, read_event: Callable[[Mapping[str, Any], Found], None]) -> Reader:
    """Return a reader of bodies that are an event, or a list of events; `read_event` adds what one says."""

    def walk(body: Any, found: Found) -> None:
        if not isinstance(body, dict | list):
            found.problem("it is neither an object nor a list")
        for event in each(body):
            read_event(event, found)

    return reader(source, walk)
