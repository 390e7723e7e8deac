"""A sender's process, the same for every channel: starts and stops what it sends with, its HTTP and its logs.

A channel's `main.py` reads the environment and provides the parts that are specific to it (`SenderProcess`). Most
senders run one loop (`one_loop`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NoReturn, Protocol

import orjson
from aiohttp import web

from shared.lifecycle import Stop, TaskGroup, end_tasks, run_service
from shared.logs import configure_logging, get_logger
from shared.queue.connection import Connection, connect
from shared.queue.producer import Producer
from shared.queue.system_log import SystemLog
from shared.redis_safety import RedisSafety
from shared.sender_metrics import SenderMetrics
from shared.sending.loop import SendingLoop
from shared.sending.provider import MessageT, Provider, ServersProvider
from shared.sending.settings import SendingSettings
from shared.settings import CommonSettings
from shared.urls import without_password
from shared.web import Health, guard, operations_routes, serving

# for a loop's own calls, its blocking read, heartbeats, the reaper, snapshots and the system log
REDIS_CONNECTIONS = 24
_FLUSH_S = 1.0


class Sending(Protocol):
    """What a sender's process runs: one loop, or one for each partition of its channel."""

    async def run(self, stop: Stop) -> None:
        """Send until `stop`, then drain within the grace time."""
        ...

    async def status(self) -> Mapping[str, object]:
        """Return what `/status` shows; may connect to the provider."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The parts of the process that its loops use."""

    redis: Connection
    metrics: SenderMetrics
    health: Health


@dataclass(frozen=True, slots=True)
class SenderProcess:
    """The channel-specific parts of a sender: its settings, and `start`, which makes what it runs.

    `notes` go into the first log line; `redis_connections` is the most that it opens.
    """

    common: CommonSettings
    sending: SendingSettings
    start: Callable[[Surroundings], Sending]
    notes: Mapping[str, object] = field(default_factory=dict)
    redis_connections: int = REDIS_CONNECTIONS


def one_loop(
    provider: Provider[MessageT],
    common: CommonSettings,
    sending: SendingSettings,
    notes: Mapping[str, object],
) -> SenderProcess:
    """Return the process of a sender that runs one loop with a provider."""

    def start(around: Surroundings) -> Sending:
        if isinstance(provider, ServersProvider):
            around.metrics.watch(provider.channel, provider.servers)
        return _OneLoop(SendingLoop(around.redis, provider, sending, around.metrics, around.health.report), provider)

    return SenderProcess(common, sending, start, notes)


class _OneLoop(Generic[MessageT]):
    def __init__(self, loop: SendingLoop[MessageT], provider: Provider[MessageT]) -> None:
        self._loop = loop
        self._provider = provider

    async def run(self, stop: Stop) -> None:
        await self._loop.run(stop)

    async def status(self) -> Mapping[str, object]:
        status = await self._provider.status()
        return {"reachable": status.reachable, "authenticated": status.authenticated, **status.detail}


def run_sender(service: str, env: Mapping[str, str], compose: Callable[[Mapping[str, str]], SenderProcess]) -> NoReturn:
    """Run one sender until it is asked to stop, then exit the process. `compose` may raise SettingsError."""
    run_service(service, lambda stop: _run(service, compose(env), stop))


async def _run(service: str, process: SenderProcess, stop: Stop) -> None:
    common, sending = process.common, process.sending
    redis = connect(
        common.redis_url,
        max_connections=process.redis_connections + 4 * common.partitions,
        partitions=common.partitions,
    )
    system_log = SystemLog(Producer(redis, sending.sender_id, timing=sending.timing))
    configure_logging(service, common, system_log.ship)
    health, metrics = Health(service), SenderMetrics(service)
    safety = RedisSafety(redis, health, common.time_scale)
    metrics.registry.register(safety)
    running = process.start(Surroundings(redis, metrics, health))
    try:
        app = _build_app(running, metrics, health, sending.internal_secret)
        async with serving(app, common.host, common.port) as port:
            get_logger().info(
                "sender_starts",
                port=port,
                redis=without_password(common.redis_url),
                concurrency=sending.concurrency,
                rate=str(sending.rate or "off"),
                **process.notes,
            )
            await _send_until(running, system_log, safety, stop)
    finally:
        await redis.aclose()


async def _send_until(running: Sending, system_log: SystemLog, safety: RedisSafety, stop: Stop) -> None:
    async with TaskGroup() as group:
        background = [group.create_task(system_log.run()), group.create_task(safety.run(stop))]
        await running.run(stop)
        await end_tasks(background)
    try:
        async with asyncio.timeout(_FLUSH_S):
            await system_log.flush()
    except TimeoutError:
        return


def _build_app(running: Sending, metrics: SenderMetrics, health: Health, secret: str) -> web.Application:
    """Return the sender's HTTP: `/health`, `/metrics`, and `/status`, which may connect to the provider and log in.

    Only `/status` requires the secret, since each call may be a login at the provider.
    """

    async def show_status(_request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(await running.status()), content_type="application/json")

    app = web.Application(middlewares=[guard(secret)])
    app.add_routes([*operations_routes(health, metrics.exposition), web.get("/status", show_status)])
    return app
