"""Answers: the bodies that the API returns, as typed structs, and how they become HTTP responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from services.ingest.http.errors import ApiError, Problem
from shared.blast_view import BlastView
from shared.numbers import json_number

_encoder = msgspec.json.Encoder(enc_hook=json_number)


class Answer(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """Base of every answer; `success` is false for errors."""

    success: bool = True


class ErrorAnswer(Answer, kw_only=True, frozen=True):
    """The form of every error; `errors` lists the problems with their JSON paths, at most the first 100."""

    success: bool = False
    code: str
    message: str
    errors: list[Problem] = []


class BlastAnswer(Answer, kw_only=True, frozen=True):
    """An accepted blast, or with `dryRun` one that would be. Totals count what is (or would be) queued.

    `jobIds` is present for JSON bodies; `errors` and `rejectedRecipients` where some recipients were refused;
    `warnings` where the request gives values that the template does not use.
    """

    blast_id: str | UnsetType = UNSET
    total_messages: int
    total_recipients: int
    job_ids: list[str] | UnsetType = UNSET
    duplicates: int = 0
    rejected_recipients: int | UnsetType = UNSET
    errors: list[Problem] | UnsetType = UNSET
    warnings: list[Problem] | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET


class MessageAnswer(Answer, kw_only=True, frozen=True):
    """An accepted message."""

    blast_id: str | UnsetType = UNSET
    job_id: str | UnsetType = UNSET
    warnings: list[Problem] | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET


class Stats(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """Live counts from Redis: waiting = not begun, active = being sent, delayed = waiting for another attempt."""

    waiting: int = 0
    active: int = 0
    delayed: int = 0
    scheduled: int = 0
    completed: int = 0
    failed: int = 0
    paused: int = 0


class AllStats(Stats, kw_only=True, frozen=True):
    """The counts of all channels together, and of each."""

    channels: dict[str, Stats]


class StatsAnswer(Answer, kw_only=True, frozen=True):
    """The state of the queues."""

    stats: AllStats


class BlastsAnswer(Answer, kw_only=True, frozen=True):
    """A page of blasts, the latest first; `nextCursor` is null on the last."""

    blasts: list[BlastView]
    next_cursor: str | None = None


class BlastStateAnswer(Answer, kw_only=True, frozen=True):
    """One blast."""

    blast: BlastView


class JobAnswer(Answer, kw_only=True, frozen=True):
    """One message, in the log's column names: its row, `history` (each attempt and deferral), `receipts`, `timeline`.

    `attempts` is the number of attempts made. `delivery` is `{status, at}`, what the receipts made of it; null without.
    """

    message: dict[str, Any]


class ChangeAnswer(Answer, kw_only=True, frozen=True):
    """The change is in effect; it may have been made earlier."""

    message: str = ""


class FailureView(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """Messages of a blast that failed alike; `example` is the last one's error in the provider's words."""

    channel: str
    error_class: str
    error_code: str
    count: int
    example: str


class FailuresAnswer(Answer, kw_only=True, frozen=True):
    """A blast's failures by reason, the most frequent first.

    At most the latest 100,000 failed messages of a channel are counted; `complete` is false if there are more.
    """

    failures: list[FailureView]
    complete: bool = True


class RetryAnswer(Answer, kw_only=True, frozen=True):
    """How many dead letters were queued again, and how many were left out."""

    reopened: int = 0
    skipped: int = 0


class RetryMatchingAnswer(Answer, kw_only=True, frozen=True):
    """How many failed messages match, how many of them were queued again, and how many were left out.

    One call takes at most the latest 100,000; `complete` is false if more match.
    """

    matched: int
    complete: bool
    reopened: int = 0
    skipped: int = 0


def json_response(body: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Make a JSON response."""
    return web.Response(
        body=_encoder.encode(body), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def error_response(error: ApiError) -> web.Response:
    """Make the response of an error."""
    body = ErrorAnswer(code=error.code, message=error.message, errors=error.problems)
    return json_response(body, error.status, error.headers)
