"""The WhatsApp sender's composition: settings from the environment, the channel, the sending loop, its HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import NoReturn

import orjson
from aiohttp import web

from services.whatsapp_sender.channel import WhatsAppChannel
from services.whatsapp_sender.metrics import WhatsAppMetrics
from services.whatsapp_sender.payload import WhatsAppMessage
from services.whatsapp_sender.settings import read_settings
from shared.clock import SystemClock
from shared.lifecycle import Stop, run_service
from shared.logs import configure_logging, get_logger
from shared.queue.connection import connect, without_password
from shared.queue.producer import Producer
from shared.queue.system_log import SystemLog
from shared.sending.loop import SendingLoop
from shared.sending.provider import Provider
from shared.web import Health, operations_routes, serving

SERVICE = "whatsapp_sender"
# the loop's own calls, the doorbell's blocking read, heartbeats, the reaper, snapshots, the system log
_REDIS_CONNECTIONS = 24
_LAST_WORDS_S = 1.0


def run() -> NoReturn:
    """Run the WhatsApp sender until SIGTERM; leaves the process."""
    run_service(SERVICE, lambda stop: main(dict(os.environ), stop))


async def main(env: Mapping[str, str], stop: Stop) -> None:
    """Run one WhatsApp sender until `stop`; raises SettingsError."""
    settings = read_settings(env)
    redis = connect(settings.common.redis_url, max_connections=_REDIS_CONNECTIONS)
    system_log = SystemLog(Producer(redis, settings.sending.sender_id))
    configure_logging(SERVICE, settings.common, system_log.ship)
    health = Health(SERVICE)
    channel, metrics = WhatsAppChannel(settings.qiscus, SystemClock()), WhatsAppMetrics()
    loop: SendingLoop[WhatsAppMessage] = SendingLoop(redis, channel, settings.sending, metrics, health.report)
    try:
        async with serving(build_app(channel, metrics, health), settings.common.host, settings.common.port) as port:
            get_logger().info(
                "sender_starts",
                port=port,
                redis=without_password(settings.common.redis_url),
                server=settings.qiscus.url,
                concurrency=settings.sending.concurrency,
                rate=str(settings.sending.rate or "off"),
            )
            await _send_until(loop, system_log, stop)
    finally:
        await redis.aclose()


async def _send_until(loop: SendingLoop[WhatsAppMessage], system_log: SystemLog, stop: Stop) -> None:
    async with asyncio.TaskGroup() as group:
        shipping = group.create_task(system_log.run())
        await loop.run(stop)
        shipping.cancel()
    try:
        async with asyncio.timeout(_LAST_WORDS_S):
            await system_log.flush()
    except TimeoutError:
        return


def build_app(provider: Provider[WhatsAppMessage], metrics: WhatsAppMetrics, health: Health) -> web.Application:
    """Return the sender's HTTP: `/health`, `/metrics`, and `/status`, which really connects and authenticates."""

    async def show_status(_request: web.Request) -> web.Response:
        status = await provider.status()
        body = {"reachable": status.reachable, "authenticated": status.authenticated, **status.detail}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    app = web.Application()
    app.add_routes([*operations_routes(health, metrics.exposition), web.get("/status", show_status)])
    return app
