"""A sender's process, the same for every channel: starts and stops the sending loop, its HTTP and its logs.

A channel's `main.py` reads the environment and provides the parts that are specific to it (`Composed`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NoReturn

import orjson
from aiohttp import web

from shared.lifecycle import Stop, TaskGroup, end_tasks, run_service
from shared.logs import configure_logging, get_logger
from shared.queue.connection import connect
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

# for the loop's own calls, its blocking read, heartbeats, the reaper, snapshots and the system log
_REDIS_CONNECTIONS = 24
_FLUSH_S = 1.0


@dataclass(frozen=True, slots=True)
class Composed(Generic[MessageT]):
    """The channel-specific parts of a sender: its provider and its settings; `notes` go into the first log line."""

    provider: Provider[MessageT]
    common: CommonSettings
    sending: SendingSettings
    notes: Mapping[str, object] = field(default_factory=dict)


def run_sender(
    service: str, env: Mapping[str, str], compose: Callable[[Mapping[str, str]], Composed[MessageT]]
) -> NoReturn:
    """Run one sender until it is asked to stop, then exit the process. `compose` may raise SettingsError."""
    run_service(service, lambda stop: _run(service, compose(env), stop))


async def _run(service: str, parts: Composed[MessageT], stop: Stop) -> None:
    redis = connect(parts.common.redis_url, max_connections=_REDIS_CONNECTIONS)
    system_log = SystemLog(Producer(redis, parts.sending.sender_id, timing=parts.sending.timing))
    configure_logging(service, parts.common, system_log.ship)
    health, metrics = Health(service), SenderMetrics(service)
    safety = RedisSafety(redis, health, parts.common.time_scale)
    metrics.registry.register(safety)
    if isinstance(parts.provider, ServersProvider):
        metrics.watch(parts.provider.channel, parts.provider.servers)
    loop: SendingLoop[MessageT] = SendingLoop(redis, parts.provider, parts.sending, metrics, health.report)
    try:
        app = _build_app(parts.provider, metrics, health, parts.sending.internal_secret)
        async with serving(app, parts.common.host, parts.common.port) as port:
            get_logger().info(
                "sender_starts",
                port=port,
                redis=without_password(parts.common.redis_url),
                concurrency=parts.sending.concurrency,
                rate=str(parts.sending.rate or "off"),
                **parts.notes,
            )
            await _send_until(loop, system_log, safety, stop)
    finally:
        await redis.aclose()


async def _send_until(loop: SendingLoop[MessageT], system_log: SystemLog, safety: RedisSafety, stop: Stop) -> None:
    async with TaskGroup() as group:
        background = [group.create_task(system_log.run()), group.create_task(safety.run(stop))]
        await loop.run(stop)
        await end_tasks(background)
    try:
        async with asyncio.timeout(_FLUSH_S):
            await system_log.flush()
    except TimeoutError:
        return


def _build_app(provider: Provider[MessageT], metrics: SenderMetrics, health: Health, secret: str) -> web.Application:
    """Return the sender's HTTP: `/health`, `/metrics`, and `/status`, which connects to the provider and logs in.

    Only `/status` requires the secret, since each call is a login at the provider.
    """

    async def show_status(_request: web.Request) -> web.Response:
        status = await provider.status()
        body = {"reachable": status.reachable, "authenticated": status.authenticated, **status.detail}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    app = web.Application(middlewares=[guard(secret)])
    app.add_routes([*operations_routes(health, metrics.exposition), web.get("/status", show_status)])
    return app
