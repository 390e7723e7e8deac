"""The errors of Kurir: one root, and under it what a caller decides by.

The subclasses of `SendError` are the outcome classes of an attempt; the sending loop maps each to one move in
the queue. Drivers' exceptions are translated to these in their adapters, nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.foreign_text import legible


class KurirError(Exception):
    """Root of every error that Kurir raises itself."""


class SettingsError(KurirError):
    """The environment does not describe a system that can run; `problems` lists every reason at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class DecodeError(KurirError, ValueError):
    """Bytes from Redis are not what they should be; `raw` keeps them whole.

    The text tells nothing of them: it ends in log lines, and they may hold a name or a body.
    """

    def __init__(self, what: str, raw: bytes) -> None:
        super().__init__(f"cannot decode {what} of {len(raw)} bytes")
        self.raw = raw


class QueueUnavailableError(KurirError):
    """Redis cannot be reached or is still loading; nothing is known about the outcome of the call."""


class QueueFullError(KurirError):
    """The backlog or Redis's memory is past its limit; try again after `retry_after_s` seconds."""

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


_LONGEST_CODE = 64
_LONGEST_MESSAGE = 4096


class SendError(KurirError):
    """An attempt that the provider did not accept.

    `code` is the provider's own code ("550 5.1.1", "131026", "connect"), `reply` its own words. All three are made
    legible here, whatever a channel found on the wire or in a driver's exception.
    """

    error_class = "transient"

    def __init__(self, message: str, *, code: str = "", reply: str = "") -> None:
        self.message = legible(message, _LONGEST_MESSAGE)
        self.code = legible(code, _LONGEST_CODE)
        self.reply = legible(reply)
        super().__init__(self.message)


class TransientError(SendError):
    """This message may work soon: retried after 2, 4, 8 s …, uses an attempt."""


class TryLaterError(TransientError):
    """The provider said "try later" and named no time: retried like the others, and then deferred, not failed."""


class ServerFailedError(TransientError):
    """The server failed while it had the message, and before the hand-over: a lost connection, an HTTP 5xx.

    `in_a_row` counts its failures without an answer in between, this one included. `in_trouble` is True once its
    breaker is open: then the message is not to blame, and no attempt is used.
    """

    def __init__(self, message: str, *, code: str = "", reply: str = "") -> None:
        super().__init__(message, code=code, reply=reply)
        self.in_a_row = 1
        self.in_trouble = False


class UnavailableError(SendError):
    """The server fails, not the message: its breaker counts, no attempt is used, the job is given back."""

    error_class = "unavailable"


class DeferredError(SendError):
    """The provider said "slow down" or "not yet"; `wait_s` is what it asked for, None if it named no time."""

    error_class = "deferred"

    def __init__(self, message: str, *, code: str = "", reply: str = "", wait_s: float | None = None) -> None:
        super().__init__(message, code=code, reply=reply)
        self.wait_s = wait_s


OPTED_OUT_REASON = "opted_out"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server's no to one recipient: one of a run in which it refuses everybody alike, perhaps.

    `alike` is what it has in common with others of its kind, of which `most` in a row are a run. `taken` returns how
    many messages the server has accepted so far, `others_left` whether other servers are there to turn to; `set_aside`
    leaves this one alone, for a reason.
    """

    server: str
    alike: str
    most: int
    taken: Callable[[], int]
    others_left: Callable[[], bool]
    set_aside: Callable[[str], None]


class PermanentError(SendError):
    """This message to this address will never work; `suppress` names why the address is suppressed, if it is.

    That is a hard bounce, which stops all messages, unless it begins with OPTED_OUT_REASON: that stops marketing.
    `refusal` is set where it may be one of many alike, by which a server refuses everybody.
    """

    error_class = "permanent"

    def __init__(self, message: str, *, code: str = "", reply: str = "", suppress: str = "") -> None:
        super().__init__(message, code=code, reply=reply)
        self.suppress = legible(suppress)
        self.refusal: Refusal | None = None


class StopChannelError(SendError):
    """The channel itself is broken (credentials, account, credit): pause it with the reason."""

    error_class = "stop"


class StopBlastError(SendError):
    """The blast's template is broken at the provider: pause the blasts that use it."""

    error_class = "stop_blast"


class RefusesAllError(SendError):
    """The server refuses everybody alike: that is our fault, not this recipient's. The job is given back."""

    error_class = "stop"


class UncertainError(SendError):
    """The answer was lost after the message had been handed over: it may have been delivered."""

    error_class = "uncertain"
