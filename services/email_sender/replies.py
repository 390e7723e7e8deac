"""Classifies SMTP replies: maps a reply and the command that it answers to an outcome.

The enhanced status code (RFC 3463) takes precedence over the basic one (RFC 5321, 4.2.3). Words decide only where
codes are known to mislead: for greylisting and rate limits under other codes, and for requested waits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from services.email_sender.blame import accuses_recipient, likeness, speaks_of_policy
from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    StopChannelError,
    TransientError,
    TryLaterError,
    UnavailableError,
)

LONGEST_WAIT_S = 24 * 3600.0
# this many similar refusals in a row are not the recipients' fault; fewer for refusals by policy (5.7.x), in any words
RUN = 20
POLICY_RUN = 10
# some servers write #5.7.1 (Cisco) or [5.7.1]; with more digits behind it, it is an IP address or a version
_CODE = r"([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)"
_ENHANCED = re.compile(rf"^[ \t]*[#(\[]?{_CODE}", re.MULTILINE)
# qmail and others put it last: "sorry, no mailbox here by that name. (#5.1.1)"
_ENHANCED_LATE = re.compile(rf"(?:#|[(\[]#?){_CODE}|(?<!\S){_CODE}[.)\]]*\s*\Z")
# the address itself does not exist (RFC 3463, 3.2); 5.1.10 is from RFC 7505 (null MX)
_NO_SUCH_ADDRESS = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
_REFUSED_ADDRESS = frozenset({550, 551, 553})
_STOP_CODES = frozenset({530, 534, 535, 538})
_DEFERRED_CODES = frozenset({421, 450, 452})
_DEFERRED_ENHANCED = frozenset({"4.2.2", "4.3.1"})
# "Daily user sending limit exceeded": https://support.google.com/a/answer/3726730
_OUR_QUOTA = "5.4.5"
_SLOW_DOWN = re.compile(
    r"gr[ae]y-?\s?list|throttl|rate[ -]limit|too (?:quickly|fast|much mail)|at a rate|limit exceeded|quota exceeded|"
    r"too many (?:\w+ )?(?:messages|mails|emails|connections|requests)|sending rate|connection rate",
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


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply: its basic code and its text (lines joined by a line feed)."""

    code: int
    text: str

    @property
    def enhanced(self) -> str:
        """The enhanced status code, or ""; one behind the words counts only in the basic code's class."""
        found = _ENHANCED.search(self.text)
        if found:
            return ".".join(found.groups())
        late = (list(filter(None, one.groups())) for one in _ENHANCED_LATE.finditer(self.text))
        return next((".".join(digits) for digits in late if digits[0] == str(self.code)[:1]), "")

    @property
    def codes(self) -> str:
        """Both codes as logs and rows show them, such as "550 5.1.1"."""
        return f"{self.code} {self.enhanced}".rstrip()

    @property
    def words(self) -> str:
        """The whole reply in the server's own words."""
        return f"{self.code} {self.text}".rstrip()

    @property
    def refuses_credentials(self) -> bool:
        """Whether it finally refuses our log-in; a 4xx never does, whatever its enhanced code."""
        return self.code in _STOP_CODES or (self.enhanced == "5.7.8" and not 400 <= self.code < 500)

    @property
    def is_policy(self) -> bool:
        """Whether it refuses for security or policy reasons (5.7.x)."""
        return self.enhanced.startswith("5.7.")


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
    if enhanced == _OUR_QUOTA or (kind == "4" and _is_deferral(reply, enhanced)):
        return DeferredError(message, code=reply.codes, reply=reply.words, wait_s=asked_wait_s(reply.text))
    if kind == "5":
        suppress = reply.codes if _is_hard_bounce(stage, reply, recipient) else ""
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
    refuses_us = stage is Stage.AUTH and 500 <= reply.code < 600
    if refuses_us or reply.refuses_credentials:
        return StopChannelError(message, code=reply.codes, reply=reply.words)
    return UnavailableError(message, code=reply.codes, reply=reply.words)


def _is_deferral(reply: Reply, enhanced: str) -> bool:
    if enhanced.startswith("4.7.") or enhanced in _DEFERRED_ENHANCED:
        return True
    if not enhanced and reply.code in _DEFERRED_CODES:
        return True
    return _SLOW_DOWN.search(reply.text) is not None or asked_wait_s(reply.text) is not None


def _is_hard_bounce(stage: Stage, reply: Reply, recipient: str) -> bool:
    """Return whether a code or words reject the recipient's address, without any word of policy."""
    if reply.enhanced:
        verdict = reply.enhanced in _NO_SUCH_ADDRESS and stage in _ABOUT_THE_RECIPIENT
    else:
        verdict = stage is Stage.RCPT and reply.code in _REFUSED_ADDRESS and accuses_recipient(reply.text)
    return verdict and not speaks_of_policy(reply.text, recipient)


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
