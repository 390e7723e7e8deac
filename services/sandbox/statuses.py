"""What WhatsApp reports about an accepted message, and when (pure functions and one counter).

Meta sends `sent`, then `delivered`, then `read`. Statuses may come in any order and more than once, and a person who
has turned read receipts off never reports `read`. Some messages are accepted and fail later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.sandbox.outcomes import whatsapp_error_of

# these Meta reports by webhook: no such user, an experiment, no conversation, too much marketing, opted out
LATE_ERRORS = frozenset({130472, 131026, 131047, 131049, 131050})
OPTED_OUT = 131050
_READ_RECEIPTS_OFF = "0"
_SWAP_EVERY, _REPEAT_EVERY = 5, 7


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that was accepted: its id, the job that it names ("" for none), and the digits of its number."""

    message_id: str
    job_id: str
    to: str


@dataclass(frozen=True, slots=True)
class Status:
    """One status of a message; `at_s` is when it was reached (Unix seconds), `code` the error of a failure."""

    message: Accepted
    status: Literal["sent", "delivered", "read", "failed"]
    at_s: int
    code: int = 0


@dataclass(frozen=True, slots=True)
class OptOut:
    """A person who stopped a business's marketing messages."""

    to: str
    at_s: int


Event = Status | OptOut


class StatusPlan:
    """Plans the statuses of each accepted message; `after_s` is the time from one to the next."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._messages = 0

    def plan(self, message: Accepted, now_s: float) -> list[tuple[float, Event]]:
        """Return each event of a message and in how many seconds to report it.

        Every 5th message is reported as read before it is reported as delivered, every 7th as delivered twice.
        """
        self._messages += 1
        step = self._after_s
        code = whatsapp_error_of(message.to)
        if code in LATE_ERRORS:
            failed = Status(message, "failed", int(now_s + step), code)
            opt_out: list[tuple[float, Event]] = [(step, OptOut(message.to, int(now_s)))] if code == OPTED_OUT else []
            return [*opt_out, (step, failed)]
        sent, delivered, read = (
            Status(message, "sent", int(now_s)),
            Status(message, "delivered", int(now_s + step)),
            Status(message, "read", int(now_s + 2 * step)),
        )
        swapped = self._messages % _SWAP_EVERY == 0
        events: list[tuple[float, Event]] = [(step / 2, sent), (2.5 * step if swapped else step, delivered)]
        if not message.to.endswith(_READ_RECEIPTS_OFF):
            events.append((2 * step, read))
        if self._messages % _REPEAT_EVERY == 0:
            events.append((3 * step, delivered))
        return events
