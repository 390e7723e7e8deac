"""Requests to begin jobs: what `begin` is told about each, and how late a start may be."""

from __future__ import annotations

from shared.queue.consumer import BeginRequest
from shared.queue.leases import Lease
from shared.sending.job_limits import domain_limits
from shared.sending.pace import Pace
from shared.sending.settings import REPEAT, SendingSettings

LEAST_LATE_MS = 1000  # the most that a start may be late under a limit with a short period
MOST_LATE_MS = 10_000


class Requests:
    """Makes requests by a sender's settings and its measured pace."""

    def __init__(self, settings: SendingSettings, pace: Pace) -> None:
        self._settings = settings
        self._pace = pace
        self._is_limited = settings.limit_of is not None or bool(settings.domain_rates)
        self._limit_of = settings.limit_of or domain_limits(settings.domain_rates)
        self._period_ms = int(settings.rate.period_s * 1000) if settings.rate else 0

    @property
    def may_be_limited(self) -> bool:
        """Whether a job may have a limit of its domain or recipient."""
        return self._is_limited

    @property
    def late_ms(self) -> int:
        """How late a start may be beyond what the gaps of the channel's limit allow."""
        return self._late_ms(self._period_ms)

    def make(self, lease: Lease) -> BeginRequest:
        """Return the request for a job."""
        exhausted = lease.attempt > self._settings.max_attempts and self._counts_abandoned(lease)
        limit = self._limit_of(lease.job) if self._is_limited else None
        if limit is None:
            return BeginRequest(lease, exhausted)
        return BeginRequest(
            lease,
            exhausted,
            limit.name,
            limit.gap_us,
            limit.burst,
            limit.starts,
            self._late_ms(limit.starts * limit.gap_us // 1000),
        )

    def _late_ms(self, period_ms: int) -> int:
        """Return how late a start may be beyond what the gaps allow; a longer delay costs its limit starts."""
        most_ms = min(max(period_ms, LEAST_LATE_MS), MOST_LATE_MS)
        return self._pace.late_ms(self._settings.timing.late_start_ms, most_ms)

    def _counts_abandoned(self, lease: Lease) -> bool:
        """Whether the attempts before this one count, the last as abandoned: a job that was deferred has one left."""
        if self._settings.on_uncertain == REPEAT:
            return False
        return lease.deliveries > 1 or not lease.job.deferrals
