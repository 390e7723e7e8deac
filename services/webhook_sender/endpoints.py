"""One sending loop for each endpoint, started, updated and ended as the endpoints in Redis change.

Each loop has a partition, a breaker and a lease of its own. So an endpoint that hangs, or a loop that fails, delays no
other. A loop that fails is started again, as a sender with a new name: the jobs that it held are taken over as from any
sender that died.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from services.webhook_sender.channel import Delivery
from shared.channels import WEBHOOK
from shared.clock import Clock, SystemClock
from shared.errors import QueueUnavailableError
from shared.lifecycle import Stop, TaskGroup
from shared.logs import get_logger
from shared.queue.batches import boot_name
from shared.queue.webhooks import Endpoints
from shared.sender_service import Surroundings
from shared.sending.loop import SendingLoop
from shared.sending.provider import Provider
from shared.sending.settings import SendingSettings
from shared.webhooks import Endpoint

POLL_S = 1.0
_RESTART_S, _LONGEST_RESTART_S = 1.0, 60.0
_NAMED = 5


class EndpointChannel(Provider[Delivery], Protocol):
    """The provider of one endpoint."""

    def update(self, endpoint: Endpoint) -> None:
        """Use the endpoint's present URL and secrets from the next attempt on."""
        ...


@dataclass(slots=True)
class _Served:
    """An endpoint that is served; `reasons` say which parts of its loop do not work."""

    endpoint: Endpoint
    stop: Stop = field(default_factory=Stop)
    channel: EndpointChannel | None = None
    task: asyncio.Task[None] | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    restarts: int = 0

    def report(self, part: str, reason: str | None) -> None:
        """Set the reason why a part does not work, or clear it with None."""
        if reason is None:
            self.reasons.pop(part, None)
        else:
            self.reasons[part] = reason


class EndpointSenders:
    """Runs the loops of one process; `make` returns the provider of an endpoint."""

    def __init__(
        self,
        around: Surroundings,
        settings: SendingSettings,
        make: Callable[[Endpoint], EndpointChannel],
        clock: Clock | None = None,
    ) -> None:
        self._around = around
        self._settings = settings
        self._make = make
        self._clock = clock or SystemClock()
        self._store = Endpoints(around.redis)
        self._served: dict[int, _Served] = {}
        self._disabled = 0
        self._unreadable: set[int] = set()
        self._redis_away = ""

    async def run(self, stop: Stop) -> None:
        """Serve every enabled endpoint until `stop`, then end all loops within the grace time."""
        async with TaskGroup() as group:
            while not stop.is_set():
                try:
                    await self._refresh(group)
                except Exception:
                    get_logger().exception("endpoints_not_refreshed")
                self._report_health()
                await _wait(stop, POLL_S * self._settings.time_scale)
            for one in self._served.values():
                one.stop.set()

    async def _refresh(self, group: TaskGroup) -> None:
        """Read the endpoints; start, update and end loops. While Redis is away everything stays."""
        try:
            endpoints, unreadable = await self._store.load()
        except QueueUnavailableError as error:
            if error.why != self._redis_away:
                get_logger().warning("redis_unavailable", reason=str(error))
            self._redis_away = error.why
            return
        self._redis_away = ""
        self._note_unreadable(set(unreadable))
        self._disabled = sum(not one.enabled for one in endpoints)
        self._served = {number: one for number, one in self._served.items() if one.task and not one.task.done()}
        wanted = {one.number: one for one in endpoints if one.enabled}
        for number, one in self._served.items():
            if number in wanted:
                self._update(one, wanted[number])
            elif number not in unreadable:
                one.stop.set()
        for number in wanted.keys() - self._served.keys():
            self._start(wanted[number], group)

    def _note_unreadable(self, numbers: set[int]) -> None:
        """Log new endpoints that a later version wrote; one that is served stays as it was."""
        for number in numbers - self._unreadable:
            get_logger().error("endpoint_unreadable", number=number)
        self._unreadable = numbers

    def _update(self, one: _Served, endpoint: Endpoint) -> None:
        """Pass a change on; a loop that is ending is started again once it has ended."""
        if endpoint == one.endpoint or one.stop.is_set():
            return
        one.endpoint = endpoint
        if one.channel is not None:
            one.channel.update(endpoint)

    def _start(self, endpoint: Endpoint, group: TaskGroup) -> None:
        one = self._served[endpoint.number] = _Served(endpoint)
        one.task = group.create_task(self._serve(one))

    async def _serve(self, one: _Served) -> None:
        """Run the loop of an endpoint until it is to end; start it again after a failure, each time later."""
        pause_s = _RESTART_S
        while not one.stop.is_set():
            try:
                await self._run_loop(one)
            except Exception as error:
                one.restarts += 1
                self._around.metrics.housekeeping_failed(WEBHOOK.name, "endpoint")
                get_logger().error("endpoint_loop_failed", endpoint=one.endpoint.endpoint_id, exc_info=error)
                await _wait(one.stop, pause_s * self._settings.time_scale)
                pause_s = min(pause_s * 2, _LONGEST_RESTART_S)

    async def _run_loop(self, one: _Served) -> None:
        """Run one loop, as a sender with a name of its own: the numbers of its calls begin at 1."""
        number = one.endpoint.number
        settings = replace(
            self._settings, sender_id=boot_name(f"{WEBHOOK.name}.{number}", self._settings.host), partition=number
        )
        one.channel = self._make(one.endpoint)
        one.reasons.clear()
        report = partial(_Served.report, one)
        await SendingLoop(self._around.redis, one.channel, settings, self._around.metrics, report).run(one.stop)

    def _report_health(self) -> None:
        """Report what concerns us; an endpoint that cannot be reached is its owner's concern, so only a warning."""
        health, served = self._around.health, self._served.values()
        away = self._redis_away or next((one.reasons["redis"] for one in served if "redis" in one.reasons), None)
        health.report("redis", away)
        late = [one for one in served if "lease" in one.reasons]
        health.report("lease", f"not renewed in time for {_named(late)}" if late else None)
        unreachable = self._unreachable()
        health.warn("endpoints", f"cannot be reached: {_named(unreachable)}" if unreachable else None)

    def _unreachable(self) -> list[_Served]:
        return [one for one in self._served.values() if "provider" in one.reasons]

    def states(self) -> Mapping[str, int]:
        """Return how many endpoints are `served`, `unreachable` (of those served), and `disabled`."""
        served = sum(not one.stop.is_set() for one in self._served.values())
        return Counter(served=served, unreachable=len(self._unreachable()), disabled=self._disabled)

    async def status(self) -> Mapping[str, object]:
        """Return the state of each endpoint that this process serves; makes no request."""
        return {"endpoints": [_view(one) for _, one in sorted(self._served.items())]}


def _view(one: _Served) -> dict[str, object]:
    return {
        "id": one.endpoint.endpoint_id,
        "number": one.endpoint.number,
        "available": "provider" not in one.reasons,
        "reasons": dict(one.reasons),
        "restarts": one.restarts,
        "ending": one.stop.is_set(),
    }


def _named(every: list[_Served]) -> str:
    """Return the ids of the first few."""
    names = ", ".join(one.endpoint.endpoint_id for one in every[:_NAMED])
    return names if len(every) <= _NAMED else f"{names} and {len(every) - _NAMED} more"


async def _wait(stop: Stop, seconds: float) -> None:
    """Wait until a stop, at most some seconds."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
