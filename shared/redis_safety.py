"""Redis safety: every service reports a Redis that would lose jobs, in its log, in `/health` and in a metric.

The check runs periodically: settings change while Redis runs, and after a failover another server answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.errors import QueueFullError, QueueUnavailableError
from shared.lifecycle import Stop
from shared.logs import get_logger
from shared.queue.connection import Connection
from shared.queue.safety import REASONS, Safety, SafetyCheck
from shared.web import Health

_EVERY_S = 30.0
_SOON_S = 1.0

log = get_logger()


class RedisSafety(Collector):
    """Checks Redis every 30 s (times `time_scale`); `found` is the latest result, None before the first.

    With `says_why`, the log says why there is no first one; other components report that in most services.
    """

    def __init__(self, redis: Connection, health: Health, time_scale: float = 1.0, *, says_why: bool = False) -> None:
        self._check = SafetyCheck(redis)
        self._health = health
        self._time_scale = time_scale
        self._says_why = says_why
        self._said = ""
        self.found: Safety | None = None

    async def run(self, stop: Stop) -> None:
        """Check until stopped, every second while Redis is away (which other components report)."""
        while not stop.is_set():
            wait_s = (_EVERY_S if await self.check() else _SOON_S) * self._time_scale
            try:
                await asyncio.wait_for(stop.wait(), wait_s)
            except TimeoutError:
                continue

    async def check(self) -> bool:
        """Check once and report changes; return False if Redis does not answer."""
        try:
            found = await self._check.run()
        except QueueUnavailableError as away:
            if self._says_why and self.found is None and away.why != self._said:
                self._said = away.why
                log.warning("redis unavailable", reason=str(away))
            return False
        except QueueFullError:
            return False
        self._report(self.found or Safety(), found, first=self.found is None)
        self.found = found
        return True

    def _report(self, before: Safety, now: Safety, *, first: bool) -> None:
        known = {danger.reason for danger in before.dangers}
        dangers = {danger.reason: danger for danger in now.dangers}
        for reason, danger in dangers.items():
            self._health.warn(f"redis_{reason}", str(danger))
            if danger not in before.dangers:
                log.warning("redis would lose messages", reason=danger.what, advice=danger.advice)
        for reason in known - set(dangers):
            self._health.warn(f"redis_{reason}", None)
            log.info("redis is safe again", reason=reason)
        if now.unchecked and (first or now.unchecked != before.unchecked):
            log.info("redis settings unchecked", unchecked=list(now.unchecked))
        if now.notes and (first or now.notes != before.notes):
            log.info("redis settings", notes=list(now.notes))

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry would otherwise call `collect` at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield one gauge with 1 for each danger and 0 otherwise; reasons that cannot be checked are absent."""
        if self.found is None:
            return
        family = GaugeMetricFamily(
            "kurir_redis_unsafe", "Whether Redis would lose messages, by reason; absent if it cannot be checked.",
            labels=("reason",),
        )  # fmt: skip
        dangers = {danger.reason for danger in self.found.dangers}
        for reason in REASONS:
            if reason not in self.found.unchecked:
                family.add_metric((reason,), float(reason in dangers))
        yield family
