"""Messages: one at a time, and all of them counted."""

from __future__ import annotations

from aiohttp import web

from services.ingest.answers import AllStats, Stats, StatsAnswer, answer
from services.ingest.api.channels import stats_of
from services.ingest.call import Call, Operation

_COUNTS = ("waiting", "active", "delayed", "scheduled", "completed", "failed", "paused")


async def _stats(call: Call) -> web.Response:
    counted = {name: stats_of(one) for name, one in (await call.gateway.queue.control.stats()).items()}
    return answer(StatsAnswer(stats=_together(counted)))


def _together(counted: dict[str, Stats]) -> AllStats:
    sums = {name: sum(getattr(one, name) for one in counted.values()) for name in _COUNTS}
    return AllStats(channels=counted, **sums)


OPERATIONS = [
    Operation("GET", "/messages/stats", "messageStats", "What is where, live from Redis", _stats, answer=StatsAnswer),
]
