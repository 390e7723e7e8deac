"""Classifies SMTP replies: maps a reply and the command that it answers to an outcome.

The enhanced status code (RFC 3463) takes precedence over the basic one (RFC 5321, 4.2.3). Words decide only where
codes are known to mislead: for greylisting and rate limits under other codes, and for requested waits.
"""

from __future__ import annotations

import re
from enum import Enum

from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    StopChannelError,
    TransientError,
    TryLaterError,
    UnavailableError,
)
from shared.smtp.blame import likeness
from shared.smtp.replies import Reply, rejects_address

LONGEST_WAIT_S = 24 * 3600.0
# this many similar refusals in a row are not the recipients' fault; fewer for refusals by policy (5.7.x), in any words
RUN = 20
POLICY_RUN = 10
_DEFERRED_CODES = frozenset({421, 450, 452})
_DEFERRED_ENHANCED = frozenset({"4.2.2", "4.3.1"})
# "Daily user sending limit exceeded": https://support.google.com/a/answer/3726730; "you've reached your daily limit for
# message recipients": learn.microsoft.com, Exchange Online, NDR error codes
_OUR_QUOTA = frozenset({"5.4.5", "5.1.90"})
_SLOW_DOWN = re.compile(
    r"gr[ae]y-?\s?list|throttl|rate[ -]limit|too (?:quickly|fast|much mail)|at a rate|limit exceeded|quota exceeded|"
    r"too many (?:\w+ )?(?:messages|mails|emails|connections|requests)|sending rate|connection rate",
    re.IGNORECASE,
)
# words that contradict a final code; stricter than those that explain a temporary one ("a limit of 35 M: try again")
_NOT_FINAL = re.compile(
    r"\bgr[ae]y-?\s?list|\b(?:again|retry|come back|wait)\W+(?:(?:in|after|for|at least)\W+)?"
    r"\d{1,6}\s*(?:s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?)\b",
    re.IGNORECASE,
)
_WAIT = re.compile(r"\b(\d{1,6})\s*(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)\b", re.IGNORECASE)
_WAIT_CLOCK = re.compile(r"\b(\d{1,2}):([0-5]\d):([0-5]\d)\b")
_ASKS_TO_WAIT = re.compile(r"again|retry|wait|come back|later|gr[ae]y-?\s?list|defer|delay", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class Stage(Enum):
    """The command that a reply answers; `DOT` is the final dot of the message."""

    GREETING = "greeting"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "message"


_BEFORE_MAIL = frozenset({Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH})
_ABOUT_THE_RECIPIENT = frozenset({Stage.RCPT, Stage.DATA, Stage.DOT})


def classify(stage: Stage, reply: Reply, recipient: str = "") -> SendError:
    """Return the error for a refused message to `recipient`.

    docs/providers.md has the table, docs/decisions/0021 and 0151 have the exceptions.
    """
    message = f"{stage.value} refused"
    if stage in _BEFORE_MAIL:
        return _before_mail(stage, reply, message)
    enhanced = reply.enhanced
    if reply.refuses_credentials:
        return StopChannelError(message, code=reply.codes, reply=reply.words)
    # if the two codes contradict each other, the refusal is temporary: nothing is lost by trying again
    kind = "4" if str(reply.code)[:1] == "4" else enhanced[:1] or str(reply.code)[:1]
    hard = kind == "5" and _is_hard_bounce(stage, reply, recipient)
    if enhanced in _OUR_QUOTA or _is_deferral(kind, reply, hard=hard):
        return DeferredError(message, code=reply.codes, reply=reply.words, wait_s=asked_wait_s(reply.text))
    if kind == "5":
        suppress = reply.codes if hard else ""
        return PermanentError(message, code=reply.codes, reply=reply.words, suppress=suppress)
    later = TryLaterError if kind == "4" else TransientError
    return later(message, code=reply.codes, reply=reply.words)


def alike(reply: Reply, recipient: str) -> tuple[str, int]:
    """Return what similar refusals have in common, and how many of them in a row make a run."""
    if reply.is_policy:
        return "5.7", POLICY_RUN
    return f"{reply.codes} {likeness(reply.text, recipient)}".rstrip(), RUN


def _before_mail(stage: Stage, reply: Reply, message: str) -> SendError:
    """Return the error for a refusal before MAIL, which concerns the server and not the message."""
    refuses_us = stage is Stage.AUTH and 500 <= reply.code < 600 and _NOT_FINAL.search(reply.text) is None
    if refuses_us or reply.refuses_credentials:
        return StopChannelError(message, code=reply.codes, reply=reply.words)
    return UnavailableError(message, code=reply.codes, reply=reply.words)


def _is_deferral(kind: str, reply: Reply, *, hard: bool) -> bool:
    if kind != "4":
        return kind == "5" and not hard and _NOT_FINAL.search(reply.text) is not None
    enhanced = reply.enhanced
    if enhanced.startswith("4.7.") or enhanced in _DEFERRED_ENHANCED:
        return True
    if not enhanced and reply.code in _DEFERRED_CODES:
        return True
    return _SLOW_DOWN.search(reply.text) is not None or asked_wait_s(reply.text) is not None


def _is_hard_bounce(stage: Stage, reply: Reply, recipient: str) -> bool:
    """Return whether a code, or in a reply to RCPT the words, reject the recipient's address."""
    return stage in _ABOUT_THE_RECIPIENT and rejects_address(reply, recipient, by_words=stage is Stage.RCPT)


def asked_wait_s(text: str) -> float | None:
    """Return the wait that a text asks for ("try again in 5 minutes", "come back in 00:05:00"), else None.

    A wait of zero counts as None: without backoff, a server that always says "at once" would be tried again forever.
    """
    if _ASKS_TO_WAIT.search(text) is None:
        return None
    clock = _WAIT_CLOCK.search(text)
    if clock is not None:
        hours, minutes, seconds = map(int, clock.groups())
        return _bounded(hours * 3600 + minutes * 60 + seconds)
    found = _WAIT.search(text)
    if found is None:
        return None
    return _bounded(int(found[1]) * _SECONDS[found[2][0].lower()])


def _bounded(wait_s: int) -> float | None:
    return min(float(wait_s), LONGEST_WAIT_S) or None
