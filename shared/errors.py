"""The errors of Kurir: one root, and under it the classes that callers decide by.

The subclasses of `SendError` are the failure classes of an attempt; the sending loop maps each to one move in the
queue. Only adapters translate their drivers' exceptions to these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.foreign_text import legible


class KurirError(Exception):
    """Root of all errors that Kurir itself raises."""


class SettingsError(KurirError):
    """The environment has invalid or missing settings; `problems` lists all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class DecodeError(KurirError, ValueError):
    """Bytes from Redis cannot be decoded; `raw` has them all.

    The message quotes none of them: it appears in log lines, and they may hold a name or a body.
    """

    def __init__(self, what: str, raw: bytes) -> None:
        super().__init__(f"cannot decode {what} of {len(raw)} bytes")
        self.raw = raw


CANNOT_BE_REACHED = "Redis cannot be reached"


class QueueUnavailableError(KurirError):
    """Redis cannot be reached, or does not serve calls now; the outcome of the call is unknown.

    `why` says why in words that any client may read: no address, no name, no data. It is the message by default.
    """

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why or message


class QueueFullError(KurirError):
    """The backlog or Redis's memory exceeds its limit; try again after `retry_after_s` seconds."""

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


# why messages failed, were not sent or were given back: the classes of the errors below, and those of events that no
# error stands behind
ERROR_CLASSES = (
    "transient", "unavailable", "deferred", "permanent", "stop", "stop_blast", "uncertain", "gave_up", "poison",
    "lost", "undecodable", "cancelled", "expired", "suppressed", "untried",
)  # fmt: skip
_LONGEST_CODE = 64
_LONGEST_MESSAGE = 4096


class SendError(KurirError):
    """An attempt failed.

    `code` is the provider's own code ("550 5.1.1", "131026") or ours ("connect"), `reply` the text of its reply. The
    message and both of these are made legible here, whatever bytes a channel received.
    """

    error_class = "transient"

    def __init__(self, message: str, *, code: str = "", reply: str = "") -> None:
        self.message = legible(message, _LONGEST_MESSAGE)
        self.code = legible(code, _LONGEST_CODE)
        self.reply = legible(reply)
        super().__init__(self.message)

    @property
    def reason(self) -> str:
        """The message, with the provider's own words if there are any."""
        return f"{self.message}: {self.reply}" if self.reply else self.message


class TransientError(SendError):
    """The message may succeed soon: it is retried after 2, 4, 8 s …, and uses an attempt."""


class TryLaterError(TransientError):
    """The provider said "try later" without a time: retried like other transient errors, then deferred, not failed."""


class ServerFailedError(TransientError):
    """The server failed while it processed the message, before the hand-over: a lost connection, an HTTP 5xx.

    `in_a_row` counts its failures without an answer in between, including this one. `in_trouble` is True once its
    breaker is open: then the message is not at fault, and no attempt is used.
    """

    def __init__(self, message: str, *, code: str = "", reply: str = "") -> None:
        super().__init__(message, code=code, reply=reply)
        self.in_a_row = 1
        self.in_trouble = False


class UnavailableError(SendError):
    """The server failed, not the message: its breaker counts the failure, no attempt is used, the job is given back."""

    error_class = "unavailable"


class DeferredError(SendError):
    """The provider said "slow down" or "not yet"; `wait_s` is the wait that it asked for, None if it gave none."""

    error_class = "deferred"

    def __init__(self, message: str, *, code: str = "", reply: str = "", wait_s: float | None = None) -> None:
        super().__init__(message, code=code, reply=reply)
        self.wait_s = wait_s


OPTED_OUT_REASON = "opted_out"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server's refusal of one recipient, which may be one of a run in which it refuses all recipients.

    `alike` is the text that the refusals of a run have in common; `most` of them in a row make a run. `accepted`
    returns how many messages the server has accepted so far, `others_left` whether there are other servers to use.
    `set_aside` takes this server out of use, with a reason.
    """

    server: str
    alike: str
    most: int
    accepted: Callable[[], int]
    others_left: Callable[[], bool]
    set_aside: Callable[[str], None]


class PermanentError(SendError):
    """The message can never be delivered to this address; `suppress` is the reason to suppress the address, or "".

    The reason is a hard bounce, which stops all messages, unless it begins with OPTED_OUT_REASON, which stops marketing
    messages only. `refusal` is set if the server may be refusing all recipients alike.
    """

    error_class = "permanent"

    def __init__(self, message: str, *, code: str = "", reply: str = "", suppress: str = "") -> None:
        super().__init__(message, code=code, reply=reply)
        self.suppress = legible(suppress)
        self.refusal: Refusal | None = None


class StopChannelError(SendError):
    """The channel itself is broken (credentials, account, credit): it is paused with the reason."""

    error_class = "stop"


class StopBlastError(SendError):
    """The blast's template is broken at the provider: the blasts that use it are paused."""

    error_class = "stop_blast"


class RefusesAllError(SendError):
    """The server refuses all recipients alike, so this recipient is not at fault: the job is given back."""

    error_class = "stop"


class UncertainError(SendError):
    """The answer was lost after the hand-over: the message may have been delivered."""

    error_class = "uncertain"
