"""Faults on demand: for a time or a number of messages, the sandbox answers as a failing provider does.

`PUT /faults` sets a fault, one per channel. It ends by time, by count or with `DELETE /faults`. `answer` is `slow`
(after `delayMs`), `hang` (accepted if `record`, never answered), `drop` (like `hang`, but the connection is closed),
`refuse` (email only: the port is closed), or a reply: for email an SMTP reply ("421 4.7.0 too busy"), for WhatsApp an
error code ("131016") or an HTTP status ("http 503").
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from services.sandbox.outcomes import WHATSAPP_ERRORS
from shared.clock import Clock
from shared.smtp.session import Verdict

Stage = Literal["greeting", "mail", "rcpt", "data"]
_EMAIL = re.compile(r"slow|hang|drop|refuse|[245][0-9]{2}(?: [^\x00-\x1f\x7f]+)?")
_WHATSAPP = re.compile(r"slow|hang|drop|[0-9]{1,6}|http [1-5][0-9]{2}")


class Fault(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A fault as requested: it ends after `times` messages or after `seconds`; with neither it lasts until cleared.

    `at` is the SMTP command that the reply answers, in `charset`; a 2xx reply accepts the message. `record` is whether
    `hang` and `drop` count the message as accepted, and so as delivered.
    """

    channel: Literal["email", "whatsapp"]
    answer: str
    times: int | None = None
    seconds: float | None = None
    at: Stage = "data"
    delay_ms: int = 5000
    record: bool = True
    retry_after: str = ""
    charset: Literal["utf-8", "latin-1", "gbk", "shift_jis"] = "utf-8"

    @property
    def reply(self) -> str:
        """The reply to send; surrogate escapes hold the bytes of another charset."""
        return self.answer.encode(self.charset).decode("utf-8", "surrogateescape")

    def problem(self) -> str:
        """Return the problem of an invalid fault, "" for a valid one."""
        pattern = _EMAIL if self.channel == "email" else _WHATSAPP
        if pattern.fullmatch(self.answer) is None or not self._is_fault():
            return f"answer: {self.answer!r} is not an answer that {self.channel} can give"
        if self.at != "data" and self.answer[0] not in "45":
            return f"at: {self.answer} applies to whole messages; only a 4xx or 5xx reply can answer {self.at}"
        if self.channel == "whatsapp" and self.answer.isdecimal() and int(self.answer) not in WHATSAPP_ERRORS:
            return f"answer: {self.answer} is not a known WhatsApp error code"
        if not self.retry_after.isprintable():
            return "retryAfter: not a valid header value"
        return ""

    def _is_fault(self) -> bool:
        """Return whether the answer can be a fault: a 2xx reply only in another charset than UTF-8."""
        if self.answer[0] == "2" and self.charset == "utf-8":
            return False
        try:
            self.answer.encode(self.charset)
        except UnicodeEncodeError:
            return False
        return True

    def verdict(self) -> Verdict:
        """Return the verdict on a whole message."""
        if self.answer == "slow":
            return Verdict(delay_s=self.delay_ms / 1000)
        if self.answer in {"hang", "drop"}:
            return Verdict(accepted=self.record, answered=False, closed=self.answer == "drop")
        return Verdict(reply=self.reply, accepted=self.answer.startswith("2"))


class Faults:
    """The current faults, at most one per channel."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set: dict[str, tuple[Fault, float]] = {}
        self._left: dict[str, int] = {}

    def set(self, fault: Fault) -> None:
        """Start a fault, which replaces the channel's previous one."""
        ends_at = float("inf") if fault.seconds is None else self._clock.monotonic() + fault.seconds
        self._set[fault.channel] = (fault, ends_at)
        self._left[fault.channel] = -1 if fault.times is None else fault.times

    def clear(self) -> None:
        """End all faults."""
        self._set.clear()

    def now(self) -> list[Fault]:
        """Return the current faults."""
        return [fault for channel in ("email", "whatsapp") if (fault := self._current(channel))]

    def take(self, channel: str, stage: Stage = "data") -> Fault | None:
        """Return the channel's fault if it applies at this stage, and count this use."""
        if not self._set:
            return None
        fault = self._current(channel)
        if fault is None or fault.answer == "refuse" or fault.at != stage:
            return None
        self._left[channel] -= 1
        return fault

    def _current(self, channel: str) -> Fault | None:
        fault, ends_at = self._set.get(channel, (None, 0.0))
        if fault is None or self._left[channel] == 0 or self._clock.monotonic() >= ends_at:
            self._set.pop(channel, None)
            return None
        return fault
