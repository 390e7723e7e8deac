"""Webhook senders as processes, one Redis, and the endpoints that they deliver to: a real HTTP server in the test."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import ssl
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web
from redis.asyncio import Redis

from shared.errors import QueueUnavailableError
from shared.events import Ended, Event, Sent, unpack_batch
from shared.queue.connection import connect
from shared.queue.control import Control
from shared.queue.partitions import Partition
from shared.queue.webhooks import webhook_partition
from shared.sealing import Seal
from shared.webhooks import Endpoint, make_secret, seal_secret, sign
from tests.faults.children import Child
from tests.integration.queue.webhooks import deliver, publish
from tests.servers import INTERNAL_SECRET, RedisServer, free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
QUICK, HANGING, FLAKY, BUSY, UNTRUSTED = 1, 2, 3, 4, 5
PATHS = {QUICK: "quick", HANGING: "hanging", FLAKY: "flaky", BUSY: "busy", UNTRUSTED: "untrusted"}
QUEUE_SCALE = 0.25
_HUGE = b"x" * 4_000_000
_numbers = itertools.count(1)


@dataclass
class Receiver:
    """The endpoints: each answers by its path, and records what it took."""

    secrets: dict[str, str] = field(default_factory=lambda: {name: make_secret() for name in PATHS.values()})
    taken: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    bodies: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    forged: list[str] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    arrived_at: dict[str, float] = field(default_factory=dict)
    hanging: bool = True
    calm: bool = False

    def has(self, name: str, count: int) -> bool:
        """Return whether an endpoint took that many deliveries."""
        return len(self.taken[name]) >= count

    async def take(self, request: web.Request) -> web.Response:
        at, name, body = time.monotonic(), request.match_info["name"], await request.read()
        webhook_id, stamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        self.requests[name] += 1
        self.tries[webhook_id] += 1
        if request.headers["webhook-signature"] != sign([self.secrets[name]], webhook_id, int(stamp), body):
            self.forged.append(webhook_id)
        self.bodies[webhook_id].add(body)
        refused = None if self.calm else await self._refusal(request, name, webhook_id)
        if refused is None:
            self.taken[name][webhook_id] += 1
            self.arrived_at.setdefault(webhook_id, at)
        return refused or web.Response(status=204)

    async def _refusal(self, request: web.Request, name: str, webhook_id: str) -> web.Response | None:
        if name == "hanging" and self.hanging:
            await asyncio.sleep(60)
        # a third attempt would come 15 s later, a fourth 90 s
        if name == "flaky" and random.random() < {1: 0.4, 2: 0.05}.get(self.tries[webhook_id], 0):
            return _failure(request, random.choice((302, 400, 404, 500, 503, "cut", "half", "huge")))
        if name == "busy" and random.random() < 0.3:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return None


def _failure(request: web.Request, kind: int | str) -> web.Response:
    """Fail one request: by a status, before an answer, in the middle of one, or with a body of megabytes."""
    transport = request.transport
    if isinstance(kind, int) or transport is None:
        return web.Response(status=kind if isinstance(kind, int) else 500)
    if kind == "huge":
        return web.Response(status=500, body=_HUGE)
    if kind == "half":
        transport.write(b"HTTP/1.1 200 OK\r\nX-Half: ")
        transport.close()
    else:
        transport.abort()
    return web.Response(status=500)


def nobodys_context() -> ssl.SSLContext:
    """Return the context of a server whose certificate no sender trusts."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@asynccontextmanager
async def listening(receiver: Receiver, port: int = 0, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve the endpoints while the block runs, on a free port unless one is given; yields the port."""
    app = web.Application()
    app.router.add_post("/{name}", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = port or free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@dataclass
class System:
    """A queue with endpoints, and the processes that serve them."""

    server: RedisServer
    redis: Redis
    senders: list[Child]
    enqueued: Counter[int] = field(default_factory=Counter)

    def partition(self, number: int) -> Partition:
        return webhook_partition(self.redis, number)

    async def publish(self, port: int, secrets: dict[str, str], elsewhere: Mapping[int, str] | None = None) -> None:
        """Write the endpoints and the snapshots of their blasts, as the logger does: at a port, some at another URL.

        Each is written once: a sender keeps what it read for up to a second.
        """
        urls = {number: f"http://127.0.0.1:{port}/{name}" for number, name in PATHS.items()} | dict(elsewhere or {})
        for number, url in urls.items():
            await self.put(number, url, secrets[PATHS[number]])

    async def move(self, number: int, port: int, secrets: dict[str, str]) -> None:
        """Write one endpoint at a port."""
        name = PATHS[number]
        await self.put(number, f"http://127.0.0.1:{port}/{name}", secrets[name])

    async def put(self, number: int, url: str, secret: str, *, enabled: bool = True) -> None:
        """Write one endpoint."""
        sealed = [seal_secret(secret, Seal(INTERNAL_SECRET))]
        await publish(self.redis, Endpoint(f"we_{number}", number, url, enabled, sealed, [0]))

    async def deliver(self, number: int, count: int) -> None:
        """Enqueue further deliveries; repeat the chunk while Redis is away, as the logger does."""
        first = self.enqueued[number]
        await until_answered(lambda: deliver(self.redis, number, first, count))
        self.enqueued[number] += count

    async def stats(self, number: int) -> Any:
        return await Control(self.redis, f"reader-{next(_numbers)}").partition_stats(self.partition(number))

    async def have_ended(self, numbers: Iterable[int] = PATHS) -> bool:
        """Tell whether every delivery to some endpoints has its outcome, which comes after the endpoint's answer."""
        stats = [await self.stats(number) for number in numbers]
        return all(one.counters["sent"] == one.counters["enqueued"] for one in stats)

    async def attempts(self, number: int) -> set[int]:
        """Return the attempts at which deliveries to an endpoint were sent."""
        return {one.attempt for one in await self._events(number) if isinstance(one, Sent)}

    async def outcomes(self, number: int) -> tuple[Counter[str], Counter[str]]:
        """Return how often each job was reported as sent (not late), and as ended otherwise."""
        events = await self._events(number)
        sent = Counter(one.job_id for one in events if isinstance(one, Sent) and not one.late)
        return sent, Counter(one.job_id for one in events if isinstance(one, Ended))

    async def _events(self, number: int) -> list[Event]:
        redis: Any = self.redis
        rows = await redis.xrange(self.partition(number).keys.events)
        return [event for _, fields in rows for event in unpack_batch(fields[b"d"]).events]


async def until_answered(action: Callable[[], Awaitable[object]]) -> None:
    """Repeat an action until Redis answers it."""
    while True:
        try:
            await action()
        except QueueUnavailableError:
            await asyncio.sleep(0.05)
            continue
        return


@asynccontextmanager
async def running(
    server: RedisServer, folder: Path, scale: float, senders: int = 2, answer_s: int = 1
) -> AsyncIterator[System]:
    """Run webhook senders on one Redis; `scale` multiplies their schedule, the queue's is at least QUEUE_SCALE."""
    children = []
    for index in range(senders):
        env = {
            "PATH": os.environ["PATH"],
            "KURIR_REDIS_URL": server.url,
            "KURIR_PORT": str(free_port()),
            "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
            "KURIR_DATA_DIR": str(folder / f"data{index}"),
            "KURIR_TIME_SCALE": str(scale),
            "QUEUE_SCALE": str(max(scale, QUEUE_SCALE)),
            "KURIR_WEBHOOK_ALLOW": "127.0.0.1",
            "KURIR_WEBHOOK_TIMEOUT": f"{answer_s}s",
            "KURIR_GRACE": f"{2 * answer_s}s",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "tests.faults.hurried_sender"]
        children.append(Child(f"webhook_sender{index}", command, env, folder))
    redis = connect(server.url)
    for sender in children:
        sender.start()
    try:
        # one that does not listen yet does not yet obey SIGTERM either
        for sender in children:
            await wait_for(partial(_listens, int(sender.env["KURIR_PORT"])), 60, "a webhook sender to start")
        yield System(server, redis, children)
    finally:
        for sender in children:
            sender.kill()
        await redis.aclose()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
