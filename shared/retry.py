"""The retry policy: the delay after each attempt, and when deferring gives up. Pure functions.

Delays double from 2 s, so three attempts have delays of 2 s and 4 s between them; a channel may have a schedule of its
own. A deferral waits as long as the provider asks, or 30 s, 1, 2, 5, 10, 30 min …, and uses no attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

FIRST_DELAY_S = 2.0
DEFERRAL_WAITS_S = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TROUBLE_WAITS_S = (5.0, 10.0, 20.0, *DEFERRAL_WAITS_S)
GIVE_UP_AFTER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after which delays a job is tried.

    `time_scale` multiplies every wait that the provider did not ask for (tests use 0.25). `give_up_after_s` is how long
    a message is deferred at most, not scaled; with 0 nothing is deferred, and every refusal uses an attempt.
    `waits_s` are the delays after the first, second, … attempt, of which the last is repeated; without them they
    double. `jitter` is the share by which a delay varies.
    """

    max_attempts: int = 3
    time_scale: float = 1.0
    give_up_after_s: float = GIVE_UP_AFTER_S
    waits_s: tuple[float, ...] = ()
    jitter: float = 0.0

    @property
    def defers(self) -> bool:
        """Whether an answer "later" defers a message without using an attempt."""
        return self.give_up_after_s > 0

    def delay_s(self, attempt: int, job_id: str = "") -> float | None:
        """Return the delay after failed attempt `attempt` (from 1), or None if it was the last.

        The job's id decides where in the jitter the delay is, so jobs that failed together do not return together.
        """
        if attempt >= self.max_attempts:
            return None
        wait_s = _step(self.waits_s, attempt) if self.waits_s else FIRST_DELAY_S * 2.0 ** (attempt - 1)
        return wait_s * self.time_scale * (1 + self.jitter * _spread(f"{job_id} {attempt}"))

    def deferral_wait_s(self, deferral: int, asked_s: float | None) -> float:
        """Return the wait of deferral number `deferral` (from 1): `asked_s` if the provider gave one."""
        if asked_s is not None:
            return max(asked_s, 0.0)
        return _step(DEFERRAL_WAITS_S, deferral) * self.time_scale

    def trouble_wait_s(self, deferral: int) -> float:
        """Return the wait of a message after its server's breaker opened: short at first, since it may close soon."""
        return _step(TROUBLE_WAITS_S, deferral) * self.time_scale

    def deferred_until_ms(self, due_ms: int, now_ms: int, first_deferred_at_ms: int, expires_at_ms: int) -> int | None:
        """Return when a deferred job is tried again, or None if deferring gives up.

        A wait that would exceed the limit is shortened for one last try: at the limit, or a second before the job
        expires.
        """
        patience_s = self.give_up_after_s or GIVE_UP_AFTER_S
        limit_ms = first_deferred_at_ms + int(patience_s * 1000)
        if expires_at_ms:
            limit_ms = min(limit_ms, expires_at_ms - 1000)
        if due_ms <= limit_ms:
            return due_ms
        return limit_ms if limit_ms - now_ms >= FIRST_DELAY_S * self.time_scale * 1000 else None


def _spread(text: str) -> float:
    """Return a number from -1 to 1 that differs between texts."""
    return crc32(text.encode()) / 2**31 - 1


def _step(waits_s: tuple[float, ...], number: int) -> float:
    return waits_s[min(number, len(waits_s)) - 1]
