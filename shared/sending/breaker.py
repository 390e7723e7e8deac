"""The circuit breaker of one server: pure, told the time by its clock.

After so many failures of the server in a row it opens: nothing is sent there for `open_s`. Then one try at a time
is let through as a probe; the first answer closes the breaker, a failure keeps it open. A server without any other
to turn to (`last_resort`) is probed more often, so that work goes on soon after it comes back.

    turn = breaker.enter(last_resort=True)
    if turn is None:
        raise UnavailableError(…)
    with turn:                      # left without a word, a probe is given back
        …
        turn.worked()               # or turn.failed("connection refused")
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from shared.clock import Clock
from shared.errors import ServerFailedError


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and for how long; all in seconds, already scaled."""

    failures: int = 5
    open_s: float = 60.0
    probe_every_s: float = 5.0

    @classmethod
    def scaled(cls, time_scale: float) -> BreakerPolicy:
        """Return the usual policy with its times multiplied (tests run at a fraction)."""
        usual = cls()
        return cls(usual.failures, usual.open_s * time_scale, usual.probe_every_s * time_scale)


class Breaker:
    """Counts a server's failures in a row, and decides whether it may be tried.

    Only failures of the server itself belong here (no connection, a lost one, no answer, an HTTP 5xx), never refusals
    of a message.
    """

    def __init__(self, clock: Clock, policy: BreakerPolicy | None = None) -> None:
        self._clock = clock
        self._policy = policy or BreakerPolicy()
        self._failures = 0
        self._failed_at: float | None = None
        self._probing = False
        self.refused = False
        self.reason = ""

    @property
    def is_open(self) -> bool:
        """Whether the server counts as down; a probe may be under way."""
        return self._failed_at is not None

    @property
    def failures(self) -> int:
        """How often the server has failed in a row."""
        return self._failures

    def admits(self, *, last_resort: bool) -> bool:
        """Say whether `enter` would let a try through now, without taking its place."""
        if self._failed_at is None:
            return True
        rest_s = min(self._policy.probe_every_s, self._policy.open_s) if last_resort else self._policy.open_s
        return not self._probing and self._clock.monotonic() >= self._failed_at + rest_s

    def enter(self, *, last_resort: bool) -> Turn | None:
        """Take a turn at the server; None while the breaker holds it back."""
        if not self.admits(last_resort=last_resort):
            return None
        probe = self.is_open
        self._probing = self._probing or probe
        return Turn(self, probe)

    def worked(self) -> None:
        """The server answered: close, and forget its failures."""
        self.close()
        self.reason = ""

    def refuses(self, reason: str) -> None:
        """The server answers, but not us (a wrong password): open at once, and probe it like one that is down."""
        self.open(reason)
        self.refused = True

    def close(self) -> None:
        """Let everything through again; the last reason is kept for people to read until the server has worked."""
        self._failures, self._failed_at, self.refused = 0, None, False

    def failed(self, reason: str) -> None:
        """The server failed once more: open after too many in a row, and rest anew if it is open already."""
        self._failures += 1
        self.reason, self.refused = reason, False
        if self.is_open or self._failures >= self._policy.failures:
            self._failed_at = self._clock.monotonic()

    def open(self, reason: str) -> None:
        """Open at once: what is known of the server needs no further failures."""
        self._failures = max(self._failures, self._policy.failures)
        self._failed_at = self._clock.monotonic()
        self.reason = reason

    def end_probe(self) -> None:
        """The probe has ended, however it did: the next may follow when it is due."""
        self._probing = False


class Turn:
    """One try at a server; its end must be told, or the `with` block does."""

    def __init__(self, breaker: Breaker, probe: bool) -> None:
        self._breaker = breaker
        self.probe = probe

    def worked(self) -> None:
        """The server answered, whatever it said of the message."""
        self._breaker.worked()

    def failed(self, reason: str) -> None:
        """The server failed rather than answered."""
        self._breaker.failed(reason)

    def judge(self, error: ServerFailedError) -> None:
        """The server failed in mid-message; tell the error how the server stands."""
        self._breaker.failed(error.message)
        error.in_a_row, error.in_trouble = self._breaker.failures, self._breaker.is_open

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.probe:
            self._breaker.end_probe()
