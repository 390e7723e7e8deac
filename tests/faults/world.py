"""A world: one system of real processes with its own Redis, and proxies where a test breaks it.

The processes are those that `kurir up` would start, by the same plan; here the test starts and kills them.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import aiohttp
import orjson

from services.cli.plan import UpOptions, make_plan
from shared.lifecycle import end_tasks
from tests.clusters import NO_FAILOVER, Cluster
from tests.e2e.system import clean_environment, free_base
from tests.faults.children import Child
from tests.faults.client import Client
from tests.faults.deliveries import Deliveries
from tests.faults.form import Form
from tests.faults.proxies import MailProxy, Proxy, RedisProxy
from tests.faults.queue_view import QueueView
from tests.faults.redis_servers import RedisServers
from tests.servers import INTERNAL_SECRET, Kind, RedisServer

ProxyT = TypeVar("ProxyT", bound=Proxy)
_READY_TIMEOUT_S = 120.0
_POLL_S = 0.02
_FOLLOW_S = 0.25
_STALL_S = 0.3
_SETTINGS = {
    "KURIR_LOG_CONSOLE": "warning",
    "KURIR_EMAIL_RATE": "off",
    "KURIR_WHATSAPP_RATE": "off",
    "KURIR_RATE_LIMIT": "off",
    "KURIR_SECRET": "fault-tests",
    "KURIR_HOOK_TOKEN": "hook-token-of-the-fault-tests",
    "KURIR_INTERNAL_SECRET": INTERNAL_SECRET,
    "KURIR_GRACE": "5s",
}


@dataclass(frozen=True, slots=True)
class Design:
    """How a world is made: `proxied` names the services that reach Redis through their own proxy.

    `mail_proxy` puts a proxy between each email sender and the sandbox's mail server, for whose answers senders wait
    `mail_timeout_s` (None: their default); `env` is for every service. With `sentinels` services
    find Redis through the Sentinels, and so bypass every proxy. With `cluster` there are three masters and three
    replicas instead, none of which takes over by itself; a channel's queue has this number of `partitions`.
    """

    email_senders: int = 1
    whatsapp: bool = False
    proxied: frozenset[str] = frozenset()
    mail_proxy: bool = False
    mail_timeout_s: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    redis: Kind = "valkey"
    replica: bool = False
    sentinels: int = 0
    cluster: bool = False
    partitions: int = 1


class World:
    """A running system, and the means to inspect and break it."""

    def __init__(self, form: Form, design: Design = Design()) -> None:
        self.form = form
        self.folder = Path(tempfile.mkdtemp(prefix="kurir-faults-"))
        self.servers = RedisServers(design.redis, replica=design.replica, sentinels=design.sentinels)
        self.cluster = Cluster(design.redis, options=NO_FAILOVER) if design.cluster else None
        self.children: dict[str, Child] = {}
        self.redis_proxies: dict[str, RedisProxy] = {}
        self.mails: dict[str, MailProxy] = {}
        self.stalls: list[tuple[float, float]] = []
        self._design = design
        self._base = free_base()
        self._open = AsyncExitStack()

    async def start(self) -> None:
        """Start everything and wait until it is healthy."""
        design = self._design
        await (asyncio.to_thread(self.cluster.start) if self.cluster else self.servers.start())
        for name in design.proxied:
            self.redis_proxies[name] = await self._started(RedisProxy(self.redis.port))
        for number in range(design.email_senders if design.mail_proxy else 0):
            name = f"email_sender-{number + 1}" if number else "email_sender"
            # slightly less than the sender's time-out, which starts slightly earlier
            patience_s = design.mail_timeout_s * 0.9 if design.mail_timeout_s else float("inf")
            self.mails[name] = await self._started(MailProxy(self._base + 91, patience_s))
            self.mails[name].stalls = self.stalls
        self._make_children()
        self.queue = QueueView(self.redis_url, design.partitions)
        self._open.push_async_callback(self.queue.close)
        self.client = Client(f"http://127.0.0.1:{self._base}")
        self._open.push_async_callback(self.client.close)
        self.deliveries = Deliveries(self.folder / "data" / "sandbox" / "delivered.ndjson", self.client.job_of_phone)
        timeout = aiohttp.ClientTimeout(total=2)
        self._http = await self._open.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout)
        )
        following = asyncio.create_task(self._follow())
        self._open.push_async_callback(end_tasks, [following])
        for child in self.children.values():
            child.start()
        for name in self.children:
            await self.healthy(name)

    async def _follow(self) -> None:
        """Read deliveries as they arrive: to read all of them together would block the proxies, which share this loop.

        `stalls` records when the loop stood still nevertheless, and for how many seconds.
        """
        while True:
            self.deliveries.all()
            began = time.monotonic()
            await asyncio.sleep(_FOLLOW_S)
            late_s = time.monotonic() - began - _FOLLOW_S
            if late_s > _STALL_S:
                self.stalls.append((time.time(), late_s))

    async def _started(self, proxy: ProxyT) -> ProxyT:
        await proxy.start()
        self._open.push_async_callback(proxy.stop)
        return proxy

    def _make_children(self) -> None:
        design = self._design
        senders = {"email": design.email_senders, "whatsapp": 1}
        options = UpOptions(self._base, self.folder / "data", self.redis_url, sandbox=True, senders=senders)
        scale = {"KURIR_TIME_SCALE": str(self.form.scale)}
        scale["KURIR_PARTITIONS"] = str(design.partitions)
        env = {**clean_environment(), **_SETTINGS, **scale, **_mail_timeouts(design), **design.env}
        (self.folder / "data").mkdir()
        for spec in make_plan(options, env, None).services:
            if spec.name.startswith("whatsapp") and not design.whatsapp:
                continue
            own = dict(spec.env)
            if spec.name in self.redis_proxies:
                own["KURIR_REDIS_URL"] = f"redis://127.0.0.1:{self.redis_proxies[spec.name].port}/0"
            if spec.name in self.mails:
                own["KURIR_SMTP_URL"] = f"smtp://127.0.0.1:{self.mails[spec.name].port}"
            self.children[spec.name] = Child(spec.name, spec.command, own, self.folder)

    async def stop(self) -> None:
        """Ask every service to stop; fail if one does not stop cleanly."""
        self._retire()
        running = [child for child in self.children.values() if child.runs()]
        codes = await asyncio.gather(*(child.stop() for child in running))
        assert set(codes) <= {0}, {child.name: (code, child.output()) for child, code in zip(running, codes)}  # noqa: B905 -- of one length

    async def close(self) -> None:
        """Kill everything that is left, in whatever state, and print what a service that had ended said last."""
        self._retire()
        for child in self.children.values():
            if child.exit_code():
                sys.stdout.write(f"{child.name} had ended with {child.exit_code()}:\n{child.output()}\n")
            child.kill()
        await self._open.aclose()
        await asyncio.to_thread(self.servers.destroy)
        if self.cluster:
            await asyncio.to_thread(self.cluster.destroy)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _retire(self) -> None:
        """Start no further child: a test that ran out of time may still be running in its loop."""
        for child in self.children.values():
            child.retired = True

    @property
    def redis_url(self) -> str:
        """The URL by which services find Redis."""
        return self.cluster.url if self.cluster else self.servers.url

    @property
    def partitions(self) -> int:
        """The number of partitions of each channel."""
        return self._design.partitions

    @property
    def tags(self) -> list[str]:
        """The hash tags of the partitions of all channels."""
        return [part.keys.tag for part in self.queue.parts]

    @property
    def redis(self) -> RedisServer:
        """The server that accepts writes."""
        return self.servers.master

    @property
    def senders(self) -> list[Child]:
        """The email senders."""
        return [child for name, child in self.children.items() if name.startswith("email_sender")]

    @property
    def log_folder(self) -> Path:
        """The log folder of every service."""
        return self.folder / "data" / "logs"

    @property
    def database(self) -> Path:
        """The logger's SQLite file."""
        return self.folder / "data" / "logs.db"

    def complaints_per_second(self) -> Counter[tuple[str, str]]:
        """Count the warnings and errors of each service per second (RFC 3339, to the second)."""
        lines = map(orjson.loads, self.log_folder.joinpath("combined.log").read_bytes().splitlines())
        bad = (line for line in lines if line["level"] in {"warning", "error", "critical"})
        return Counter((line["service"], line["at"][:19]) for line in bad)

    def logged(self, event: str) -> list[dict[str, object]]:
        """Return the log lines with this event name so far."""
        path = self.log_folder / "combined.log"
        if not path.exists():
            return []
        wanted = event.encode()
        lines = (line for line in path.read_bytes().splitlines() if wanted in line)
        return [line for raw in lines if (line := orjson.loads(raw)).get("event") == event]

    async def sandbox(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Call the sandbox directly."""
        url = f"http://127.0.0.1:{self._base + 90}{path}"
        patience = aiohttp.ClientTimeout(total=_READY_TIMEOUT_S)
        async with self._http.request(method, url, json=body, timeout=patience) as answer:
            assert answer.status < 300, await answer.text()
            found: dict[str, object] = await answer.json()
            return found

    async def healthy(self, name: str, timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Wait until a service answers 200 to GET /health; fail with its last answer."""
        child = self.children[name]
        deadline = time.monotonic() + timeout_s
        while True:
            assert child.runs(), f"{name} ended with {child.exit_code()}: {child.output()}"
            status, said = await self._ask(name)
            if status == 200:
                return
            assert time.monotonic() < deadline, f"{name} is not well after {timeout_s:g} s: {status} {said}"
            await asyncio.sleep(_POLL_S)

    async def health(self, name: str) -> int:
        """Return the status of a service's GET /health, 0 if it does not answer."""
        return (await self._ask(name))[0]

    async def _ask(self, name: str) -> tuple[int, str]:
        try:
            async with self._http.get(f"http://127.0.0.1:{self.children[name].env['KURIR_PORT']}/health") as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, repr(error)

    async def restart(self, name: str) -> None:
        """Start a dead child and wait until it is healthy."""
        self.children[name].start()
        await self.healthy(name)


def _mail_timeouts(design: Design) -> dict[str, str]:
    if design.mail_timeout_s is None:
        return {}
    return dict.fromkeys(("KURIR_SMTP_DATA_TIMEOUT", "KURIR_SMTP_COMMAND_TIMEOUT"), f"{design.mail_timeout_s:g}s")


@asynccontextmanager
async def running(form: Form, design: Design = Design()) -> AsyncIterator[World]:
    """Run a world while the block runs; leave none of its processes behind."""
    world = World(form, design)
    try:
        await world.start()
        yield world
        await world.stop()
    finally:
        await world.close()
