"""Filters: the parameters of a log query, read and checked; and cursors, which are opaque to clients."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from services.logger.exports import Export
from shared.addresses import ways_written
from shared.channels import CHANNELS
from shared.errors import ERROR_CLASSES, KurirError
from shared.jobs import TERMINAL

STATUSES = ("scheduled", "queued", "processing", "retrying", *TERMINAL)
# statuses that are counted each time a message reaches one
COUNTED = ("queued", "retrying", "deferred", *TERMINAL)
# what receipts may have made of a message; `delivery_rank` ranks them by channel
DELIVERIES = ("delivered", "read", "undelivered", "bounced", "complained")
DEFAULT_LIMIT, MAX_LIMIT = 50, 1000
# sorts after every address, and right after a whole one: none has control characters, and PostgreSQL has no NUL
AFTER_ALL, _NEXT = "\U0010ffff", "\x01"
_FORMATS = ("json", "csv", "ndjson")
_SPREADSHEET = "spreadsheet"
_LEVELS = ("debug", "info", "warning", "error", "critical")


class InvalidQueryError(KurirError):
    """A parameter is invalid; `code` is the error code of the answer."""

    def __init__(self, message: str, code: str = "INVALID_QUERY") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time in ms since the epoch, both ends included; None leaves an end open."""

    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The page to return: at most `limit` rows after the row that `cursor` names (0: from the latest)."""

    limit: int = DEFAULT_LIMIT
    cursor: int = 0


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Which messages to return; empty fields do not filter.

    `recipient` has beginnings of addresses, or if `whole`, whole ones; a message matches if any of them matches.
    """

    statuses: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    recipient: tuple[str, ...] = ()
    blast: str = ""
    template: str = ""
    reference: str = ""
    error_class: str = ""
    span: Span = Span()
    deliveries: tuple[str, ...] = ()
    whole: bool = False

    @property
    def recipient_ranges(self) -> list[tuple[str, str]]:
        """The ranges of addresses that match, each with its first and the one after its last."""
        return [(one, one + (_NEXT if self.whole else AFTER_ALL)) for one in self.recipient]


@dataclass(frozen=True, slots=True)
class ApiFilter:
    """Which API requests to return; empty fields do not filter."""

    endpoint: str = ""
    method: str = ""
    status: int | None = None
    span: Span = Span()


@dataclass(frozen=True, slots=True)
class SystemFilter:
    """Which system events to return; empty fields do not filter."""

    levels: tuple[str, ...] = ()
    service: str = ""
    span: Span = Span()


def read_message_filter(query: Mapping[str, str], region: str = "ID") -> MessageFilter:
    """Read the filters of `/api/logs/messages`; raises InvalidQueryError.

    `region` is the country of phone numbers without a country code.
    """
    return MessageFilter(
        statuses=_choices(query, "status", STATUSES),
        channels=_choices(query, "channel", tuple(CHANNELS)),
        recipient=ways_written(query.get("recipient", ""), region),
        blast=query.get("blast", ""),
        template=query.get("template", ""),
        reference=query.get("reference", ""),
        error_class=choice_of("error_class", query.get("error_class", ""), ERROR_CLASSES),
        span=read_span(query),
        deliveries=_choices(query, "delivery", DELIVERIES),
        whole=asks_masked(query),
    )


def asks_masked(query: Mapping[str, str]) -> bool:
    """Return whether ingest asks for a caller that may not see recipients: who could also not search by beginnings."""
    return query.get("masked") == "1"


def read_api_filter(query: Mapping[str, str]) -> ApiFilter:
    """Read the filters of `/api/logs/api`; raises InvalidQueryError."""
    status = _integer(query, "status", 0, 999)
    return ApiFilter(query.get("endpoint", ""), query.get("method", "").upper(), status or None, read_span(query))


def read_system_filter(query: Mapping[str, str]) -> SystemFilter:
    """Read the filters of `/api/logs/system`; raises InvalidQueryError."""
    return SystemFilter(_choices(query, "level", _LEVELS), query.get("service", ""), read_span(query))


def read_page(query: Mapping[str, str]) -> Page:
    """Read `limit` and `cursor`; raises InvalidQueryError."""
    text = query.get("cursor", "")
    return Page(read_limit(query), _read_cursor(text) if text else 0)


def read_limit(query: Mapping[str, str]) -> int:
    """Read `limit`; raises InvalidQueryError."""
    return _integer(query, "limit", 1, MAX_LIMIT) or DEFAULT_LIMIT


def read_export(query: Mapping[str, str]) -> Export | None:
    """Read `format` (json for a page, csv or ndjson for an export) and `for`; raises InvalidQueryError.

    Returns None for a page.
    """
    wanted, reader = query.get("format") or "json", query.get("for", "")
    if wanted not in _FORMATS:
        raise InvalidQueryError(f"format: {wanted!r} is unknown; use {', '.join(_FORMATS)}")
    if reader not in {"", _SPREADSHEET}:
        raise InvalidQueryError(f"for: {reader!r} is not {_SPREADSHEET}")
    if reader and wanted != "csv":
        raise InvalidQueryError(f"for={_SPREADSHEET} needs format=csv")
    return None if wanted == "json" else Export(wanted, bool(reader), asks_masked(query))


def read_age_s(query: Mapping[str, str]) -> int:
    """Read `olderThanSeconds`, 0 if it is not given; raises InvalidQueryError."""
    return _integer(query, "olderThanSeconds", 0, 100_000_000)


def read_span(query: Mapping[str, str]) -> Span:
    """Read `from` and `to`; raises InvalidQueryError."""
    return Span(_time(query, "from"), _time(query, "to"))


def write_cursor(row_id: int) -> str:
    """Return the cursor of the page after the row with this id."""
    return base64.urlsafe_b64encode(orjson.dumps({"after": row_id})).decode().rstrip("=")


def _read_cursor(text: str) -> int:
    try:
        value = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))["after"]
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise InvalidQueryError("cursor: give the nextCursor of an earlier answer", "INVALID_CURSOR") from error
    if not isinstance(value, int) or not 0 < value < 1 << 63:
        raise InvalidQueryError("cursor: give the nextCursor of an earlier answer", "INVALID_CURSOR")
    return value


def _choices(query: Mapping[str, str], name: str, options: tuple[str, ...]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(word.strip() for word in query.get(name, "").split(",") if word.strip()))
    for word in wanted:
        choice_of(name, word, options)
    return wanted


def choice_of(name: str, word: str, options: Collection[str]) -> str:
    """Return the word if it is "" or one of the options; raises InvalidQueryError, which lists them."""
    if word and word not in options:
        raise InvalidQueryError(f"{name}: {word[:60]!r} is unknown; use {', '.join(options)}")
    return word


def _integer(query: Mapping[str, str], name: str, minimum: int, maximum: int) -> int:
    """Return a whole number within its bounds, 0 if it is not given."""
    text = query.get(name, "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 10 and minimum <= int(text) <= maximum):
        raise InvalidQueryError(f"{name}: {text!r} is not a whole number from {minimum} to {maximum}")
    return int(text)


def _time(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "").strip()
    if not text:
        return None
    try:
        # a "+" that a client did not escape arrives as a space
        at = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError as error:
        raise InvalidQueryError(f"{name}: {text!r} is not a time such as 2026-01-31T12:00:00Z") from error
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0, int(at.timestamp() * 1000))
