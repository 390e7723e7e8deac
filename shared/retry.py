"""The retry policy, pure: which delay follows which attempt, and when a deferral gives up.

Delays double from 2 s, so three attempts in all wait 2 s and 4 s. A deferral waits as long as the provider
asks, or 30 s, 1, 2, 5, 10, 30 min …, and uses no attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 2.0
DEFERRAL_WAITS_S = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
DEFERRAL_LIMIT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after what delays a job is tried; `time_scale` shortens every wait (tests use 0.25)."""

    max_attempts: int = 3
    time_scale: float = 1.0

    def delay_s(self, attempt: int) -> float | None:
        """Return the delay after failed attempt `attempt` (from 1), None if it was the last."""
        if attempt >= self.max_attempts:
            return None
        return FIRST_DELAY_S * 2.0 ** (attempt - 1) * self.time_scale

    def deferral_wait_s(self, deferral: int, asked_s: float | None) -> float:
        """Return the wait of deferral number `deferral` (from 1); what the provider asked for comes first."""
        if asked_s is not None:
            return max(asked_s, 0.0)
        step = min(deferral, len(DEFERRAL_WAITS_S)) - 1
        return DEFERRAL_WAITS_S[step] * self.time_scale

    def deferral_ends_at_ms(self, first_deferred_at_ms: int, expires_at_ms: int) -> int:
        """Return when deferring gives up: the job's expiry, or 24 h after its first deferral."""
        limit = first_deferred_at_ms + int(DEFERRAL_LIMIT_S * 1000)
        return min(limit, expires_at_ms) if expires_at_ms else limit
