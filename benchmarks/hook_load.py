"""The load of hooks: a provider that posts signed statuses of WhatsApp messages, and a client that posts blasts.

Meta reports each message three times, as sent, delivered and read, so statuses arrive at three times the sending rate.
Those of one message come in this order, seconds apart. All requests are made before the first is sent, so that the load
itself takes little processor time. They arrive at fixed times, whether or not earlier ones were answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import orjson
import uvloop

from benchmarks.kurir import LOCALHOST
from benchmarks.logger_receipts import message_id
from benchmarks.processes import BenchmarkError
from benchmarks.workload import blast_body

TOKEN = "token-of-the-benchmarks-0123456789"
SECRET = "an app secret of the benchmarks"
CHANNEL = "whatsapp"
WORK = "hooks"
FIGURES = ("statuses/s", "of those asked for", "msg/s", "of these", "p50 ms", "p99 ms")
_KINDS = ("sent", "delivered", "read")
_AFTER_S = (0, 1, 3)
_CONNECTIONS = 50
_ANSWER_TIMEOUT_S = 60.0
_BLASTS_A_SECOND = 4


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests, whole, in the order in which they arrive, and the seconds from one to the next."""

    requests: Sequence[bytes]
    gap_s: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """The load: messages and statuses a second, statuses in a request, and for how long."""

    messages: int
    statuses: int
    batch: int
    seconds: float

    @property
    def requests(self) -> int:
        """The number of requests."""
        return int(self.statuses / self.batch * self.seconds)

    @property
    def blasts(self) -> int:
        """The number of blasts."""
        return int(self.seconds * _BLASTS_A_SECOND) if self.messages else 0

    @property
    def recipients(self) -> int:
        """The number of recipients of a blast."""
        return self.messages // _BLASTS_A_SECOND

    @property
    def reported(self) -> int:
        """The number of messages that the statuses are about, each with all kinds."""
        return -(-self.requests * self.batch // len(_KINDS))

    @property
    def read(self) -> int:
        """The number of messages that are reported as read."""
        return self.requests * self.batch // len(_KINDS)

    @property
    def receipts(self) -> int:
        """The number of receipts in the statuses: all but those that say `sent`, which Kurir knows."""
        return self.requests * self.batch - self.reported


def make_hooks(wanted: Wanted) -> Arrivals:
    """Return the requests of the provider."""
    numbers = iter(_statuses(wanted))
    bodies = (_hook_body([next(numbers) for _ in range(wanted.batch)]) for _ in range(wanted.requests))
    return Arrivals([_hook(body) for body in bodies], wanted.batch / wanted.statuses)


def make_blasts(wanted: Wanted) -> Arrivals:
    """Return the requests of the client."""
    body = blast_body(wanted.recipients)
    return Arrivals([request("/api/messages/blast", body)] * wanted.blasts, 1 / _BLASTS_A_SECOND)


def _statuses(wanted: Wanted) -> Iterator[tuple[int, str]]:
    """Yield a message's number and the kind of its status: every pair once."""
    a_second = wanted.statuses // len(_KINDS)
    for number in range(wanted.requests * wanted.batch):
        message, kind = divmod(number, len(_KINDS))
        yield (message - _AFTER_S[kind] * a_second) % wanted.reported, _KINDS[kind]


def _hook_body(statuses: Sequence[tuple[int, str]]) -> bytes:
    """Return statuses as Meta writes them."""
    now = str(int(time.time()))
    reported = [
        {
            "id": message_id(CHANNEL, number),
            "status": kind,
            "timestamp": now,
            "recipient_id": f"6281{number:09}",
            "biz_opaque_callback_data": f"bench:{number}:{CHANNEL}",
            "pricing": {"billable": True, "pricing_model": "PMP", "type": "regular", "category": "utility"},
        }
        for number, kind in statuses
    ]
    metadata = {"display_phone_number": "6281100000000", "phone_number_id": "106540352242922"}
    value = {"messaging_product": "whatsapp", "metadata": metadata, "statuses": reported}
    entry = {"id": "102290129340398", "changes": [{"field": "messages", "value": value}]}
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})


def _hook(body: bytes) -> bytes:
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return request(f"/hooks/meta/{TOKEN}", body, f"X-Hub-Signature-256: sha256={signature}\r\n")


def request(path: str, body: bytes, headers: str = "") -> bytes:
    """Return a whole POST."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {LOCALHOST}\r\nContent-Type: application/json\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def run_load(port: int, hooks: Arrivals, blasts: Arrivals) -> list[float]:
    """Send all requests; return the time of each hook in ms, from when it was due to its answer.

    Raises BenchmarkError if one is not taken, or not answered in time.
    """

    async def run() -> list[float]:
        times, _ = await asyncio.gather(_Clients(port, hooks).run(), _Clients(port, blasts).run())
        return times

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


class _Clients:
    """Sends requests over kept connections, each on the first that is free."""

    def __init__(self, port: int, arrivals: Arrivals) -> None:
        self._port = port
        self._arrivals = arrivals
        self._free: list[_Client] = []
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._times: list[float] = []

    async def run(self) -> list[float]:
        """Return the time of each request in ms; raises BenchmarkError."""
        loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[None] = loop.create_future()
        clients = []
        for _ in range(_CONNECTIONS if self._arrivals.requests else 0):
            _, client = await loop.create_connection(partial(_Client, self), LOCALHOST, self._port)
            clients.append(client)
        self._free += clients
        try:
            await self._run()
        finally:
            for client in clients:
                client.close()
        return self._times

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number, request in enumerate(self._arrivals.requests):
            due = begun + number * self._arrivals.gap_s
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            self._waiting.append((request, due))
            self._send()
        if self._arrivals.requests:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await self._answered

    def _send(self) -> None:
        while self._free and self._waiting:
            self._free.pop().send(*self._waiting.popleft())

    def answered(self, client: _Client, seconds: float) -> None:
        """Note how long a request took; its connection is free."""
        self._times.append(seconds * 1000)
        self._free.append(client)
        self._send()
        if len(self._times) == len(self._arrivals.requests):
            self._answered.set_result(None)

    def failed(self, why: str) -> None:
        """End the run with an error."""
        if not self._answered.done():
            self._answered.set_exception(BenchmarkError(f"a request was not taken: {why}"))


class _Client(asyncio.Protocol):
    """A connection, which has one request at a time.

    Streams would cost ten times as much: the load shares its processor with what it measures.
    """

    def __init__(self, clients: _Clients) -> None:
        self._clients = clients
        self._due = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due: float) -> None:
        """Send a request, which was due then."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Note the answer once it is whole."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            return
        if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 202 ")):
            self._clients.failed(f"{head.splitlines()[0]!r} {body!r}")
            return
        self._received = b""
        self._clients.answered(self, asyncio.get_running_loop().time() - self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the run, unless it has ended."""
        self._clients.failed(f"the connection was closed: {exc}")

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()
