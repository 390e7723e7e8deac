"""The circuit breaker of one server: no I/O, and the time comes from its clock.

After `failures` failures in a row the breaker opens: nothing is sent to the server for `open_s`. Then it admits one try
at a time as a probe; the first answer closes the breaker, a failure keeps it open. A server without an alternative
(`last_resort`) is probed more often, so that work resumes soon after it recovers.

    admission = breaker.enter(last_resort=True)
    if admission is None:
        raise UnavailableError(…)
    with admission:                 # a block that reports nothing only ends its probe
        …
        admission.worked()          # or admission.failed("connection refused")
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from shared.clock import Clock
from shared.errors import ServerFailedError


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """After how many failures a breaker opens, and for how long; times in seconds, already scaled.

    With `slows` the wait between the probes of a last resort doubles from `probe_every_s` to `open_s`.
    """

    failures: int = 5
    open_s: float = 60.0
    probe_every_s: float = 5.0
    slows: bool = False

    @classmethod
    def scaled(cls, time_scale: float) -> BreakerPolicy:
        """Return the default policy with its times multiplied (tests run at a fraction)."""
        usual = cls()
        return cls(usual.failures, usual.open_s * time_scale, usual.probe_every_s * time_scale)


class Breaker:
    """Counts a server's failures in a row and decides whether it may be tried.

    Only failures of the server itself count (no connection, a lost connection, no answer, an HTTP 5xx), never the
    refusal of a message.
    """

    def __init__(self, clock: Clock, policy: BreakerPolicy | None = None) -> None:
        self._clock = clock
        self._policy = policy or BreakerPolicy()
        self._failures = 0
        self._failed_at: float | None = None
        self._failed_probes = 0
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
        """Return whether `enter` would admit a try now."""
        if self._failed_at is None:
            return True
        wait_s = self._probe_wait_s() if last_resort else self._policy.open_s
        return not self._probing and self._clock.monotonic() >= self._failed_at + wait_s

    def _probe_wait_s(self) -> float:
        # the exponent is bounded: a server may be down for days
        slower = 2.0 ** min(self._failed_probes, 16) if self._policy.slows else 1.0
        return min(self._policy.probe_every_s * slower, self._policy.open_s)

    def enter(self, *, last_resort: bool) -> Admission | None:
        """Begin a try at the server; None while the breaker does not admit one."""
        if not self.admits(last_resort=last_resort):
            return None
        probe = self.is_open
        self._probing = self._probing or probe
        return Admission(self, probe)

    def worked(self) -> None:
        """Note that the server answered: close, and forget its failures."""
        if self._failures:  # without a failure it is closed
            self.close()
        self.reason = ""

    def refuses(self, reason: str) -> None:
        """Note that the server refuses our credentials: open immediately, and probe it like a server that is down."""
        self.open(reason)
        self.refused = True

    def close(self) -> None:
        """Admit every try again; keep the last reason for operators until the server has worked."""
        self._failures, self._failed_at, self.refused = 0, None, False
        self._failed_probes = 0

    def failed(self, reason: str) -> None:
        """Count a failure: open after too many in a row; if open already, restart the wait for the next probe."""
        self._failures += 1
        self.reason, self.refused = reason, False
        self._failed_probes += self._probing
        if self.is_open or self._failures >= self._policy.failures:
            self._failed_at = self._clock.monotonic()

    def open(self, reason: str) -> None:
        """Open immediately, without waiting for further failures."""
        self._failures = max(self._failures, self._policy.failures)
        self._failed_at = self._clock.monotonic()
        self.reason = reason

    def end_probe(self) -> None:
        """End the probe, whatever its outcome; the next may start when it is due."""
        self._probing = False


class Admission:
    """One try at a server; report its outcome within the `with` block, which ends the probe."""

    def __init__(self, breaker: Breaker, probe: bool) -> None:
        self._breaker = breaker
        self.probe = probe

    def worked(self) -> None:
        """Note that the server answered, whether or not it accepted the message."""
        self._breaker.worked()

    def failed(self, reason: str) -> None:
        """Note that the server failed instead of answering."""
        self._breaker.failed(reason)

    def judge(self, error: ServerFailedError) -> None:
        """Note that the server failed in mid-message; record the breaker's state in the error."""
        self._breaker.failed(error.message)
        error.in_a_row, error.in_trouble = self._breaker.failures, self._breaker.is_open

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.probe:
            self._breaker.end_probe()
