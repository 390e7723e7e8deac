"""Faults on demand: for a while, or a number of times, the sandbox answers as a provider in trouble does.

Set with `PUT /faults`, ended by time, by count or with `DELETE /faults`; one fault a channel. `answer` is
`slow` (after `delayMs`), `hang` (accepted if `record`, never answered), `drop` (the same, and the connection is
closed), `refuse` (email only: nothing listens any more), or a reply: for email an SMTP reply ("421 4.7.0 too busy"),
for WhatsApp an error code ("131016") or an HTTP status ("http 503").
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from services.sandbox.outcomes import WHATSAPP_ERRORS, Verdict
from shared.clock import Clock

Stage = Literal["greeting", "mail", "rcpt", "data"]
_EMAIL = re.compile(r"slow|hang|drop|refuse|[245][0-9]{2}(?: [^\x00-\x1f\x7f]+)?")
_WHATSAPP = re.compile(r"slow|hang|drop|[0-9]{1,6}|http [1-5][0-9]{2}")


class Fault(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A fault as it is asked for: `times` counts messages, `seconds` limits it in time; neither means for ever.

    `at` is the SMTP command that a reply answers, in `charset`; a 2xx takes the message with these words. `record`
    tells whether messages that are left hanging or dropped count as accepted, and so as delivered.
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
        """The answer as it goes out: bytes of another charset are hidden in surrogates."""
        return self.answer.encode(self.charset).decode("utf-8", "surrogateescape")

    def problem(self) -> str:
        """Return what is wrong with it, "" if nothing."""
        pattern = _EMAIL if self.channel == "email" else _WHATSAPP
        if pattern.fullmatch(self.answer) is None or not self._is_fault():
            return f"answer: {self.answer!r} is none that {self.channel} can give"
        if self.at != "data" and self.answer[0] not in "45":
            return f"at: {self.answer} strikes whole messages, only a refusal can answer {self.at}"
        if self.channel == "whatsapp" and self.answer.isdecimal() and int(self.answer) not in WHATSAPP_ERRORS:
            return f"answer: {self.answer} is no known WhatsApp error"
        if not self.retry_after.isprintable():
            return "retryAfter: not a header value"
        return ""

    def _is_fault(self) -> bool:
        """A yes is a fault only in a charset that it should not have."""
        if self.answer[0] == "2" and self.charset == "utf-8":
            return False
        try:
            self.answer.encode(self.charset)
        except UnicodeEncodeError:
            return False
        return True

    def verdict(self) -> Verdict:
        """Return what it makes of a whole message."""
        if self.answer == "slow":
            return Verdict(delay_s=self.delay_ms / 1000)
        if self.answer in {"hang", "drop"}:
            return Verdict(accepted=self.record, answered=False, closed=self.answer == "drop")
        return Verdict(reply=self.reply, accepted=self.answer.startswith("2"))


class Faults:
    """The faults that are set now, at most one a channel."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set: dict[str, tuple[Fault, float]] = {}
        self._left: dict[str, int] = {}

    def set(self, fault: Fault) -> None:
        """Let a fault begin, in place of the channel's last one."""
        ends_at = float("inf") if fault.seconds is None else self._clock.monotonic() + fault.seconds
        self._set[fault.channel] = (fault, ends_at)
        self._left[fault.channel] = -1 if fault.times is None else fault.times

    def clear(self) -> None:
        """End all faults."""
        self._set.clear()

    def now(self) -> list[Fault]:
        """Return the faults that are set."""
        return [fault for channel in ("email", "whatsapp") if (fault := self._current(channel))]

    def take(self, channel: str, stage: Stage = "data") -> Fault | None:
        """Return the channel's fault if it strikes at this stage, and count it."""
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
