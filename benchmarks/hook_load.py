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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson
import uvloop

from benchmarks.kurir import LOCALHOST
from benchmarks.logger_receipts import message_id
from benchmarks.processes import BenchmarkError
from benchmarks.workload import blast_body

TOKEN = "token-of-the-benchmarks-0123456789"
SECRET = "an app secret of the benchmarks"
CHANNEL = "whatsapp"
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
    return Arrivals([_post("/api/messages/blast", body)] * wanted.blasts, 1 / _BLASTS_A_SECOND)


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
    return _post(f"/hooks/meta/{TOKEN}", body, f"X-Hub-Signature-256: sha256={signature}\r\n")


def _post(path: str, body: bytes, headers: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: {LOCALHOST}\r\nContent-Type: application/json\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def run_load(port: int, hooks: Arrivals, blasts: Arrivals) -> list[float]:
    """Send all requests; return the time of each hook in ms, from when it was due to its answer.

    Raises BenchmarkError if one is not taken.
    """

    async def run() -> list[float]:
        provider, client = _Clients(port), _Clients(port)
        times, _ = await asyncio.gather(provider.run(hooks), client.run(blasts))
        return times

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


class _Clients:
    """Sends requests over kept connections, each on the first that is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def run(self, arrivals: Arrivals) -> list[float]:
        """Return the time of each request in ms; raises BenchmarkError."""
        for _ in range(_CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection(LOCALHOST, self._port))
        begun, tasks = time.monotonic(), []
        for number, request in enumerate(arrivals.requests):
            due = begun + number * arrivals.gap_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(self._send(request, due)))
        times = await asyncio.gather(*tasks)
        while not self._free.empty():
            self._free.get_nowait()[1].close()
        return times

    async def _send(self, request: bytes, due: float) -> float:
        reader, writer = connection = await self._free.get()
        writer.write(request)
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        taken_ms = (time.monotonic() - due) * 1000
        if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 202 ")):
            raise BenchmarkError(f"a request was not taken: {head.splitlines()[0]!r} {body!r}")
        self._free.put_nowait(connection)
        return taken_ms
