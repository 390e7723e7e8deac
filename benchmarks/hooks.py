"""Measure hooks: WhatsApp statuses in Meta's batches, signed, on one ingest process while messages go out.

    python -m benchmarks.hooks [--messages 2000] [--statuses 6000] [--batch 10] [--seconds 20]

The whole system sends one blast through smtp-sink at a limited rate (`--messages 0`: none). Meanwhile requests arrive
at fixed times, whether or not earlier ones were answered, as from a provider. A request's time counts from the moment
when it should have been sent, so that a server that stands still cannot hide it. Meta asks for a median of at most
250 ms, and fewer than 1 % over a second, at three times the sending rate.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.kurir import LOCALHOST, Kurir, running
from benchmarks.kurir_works import BLAST
from benchmarks.processes import BenchmarkError, Usage
from benchmarks.sink import Sink
from benchmarks.workload import Load, blast_body

TOKEN = "token-of-the-benchmarks-0123456789"
SECRET = "an app secret of the benchmarks"
_CONNECTIONS = 50
_WARM_UP_S = 3.0
_SPARE_S = 5.0
_ANSWER_TIMEOUT_S = 60.0
_GOAL_MS = 50.0


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


@dataclass(frozen=True, slots=True)
class Found:
    """The times of all requests in ms, sorted; statuses and messages a second; processor seconds by process."""

    times_ms: list[float]
    statuses_per_s: float
    messages_per_s: float
    used: Usage

    def share(self, part: float) -> float:
        """Return the time that this part of the requests did not exceed."""
        return self.times_ms[min(len(self.times_ms) - 1, int(len(self.times_ms) * part))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if not every request was taken, or the median is above the goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hooks", description=__doc__)
    parser.add_argument("--messages", type=int, default=2000, help="messages a second that go out")
    parser.add_argument("--statuses", type=int, default=6000, help="statuses a second that arrive")
    parser.add_argument("--batch", type=int, default=10, help="statuses in a request")
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args(arguments)
    try:
        found = measure(Wanted(given.messages, given.statuses, given.batch, given.seconds))
    except BenchmarkError as error:
        print(f"benchmarks.hooks: {error}", file=sys.stderr)
        return 1
    slow = sum(time_ms > 1000 for time_ms in found.times_ms) / len(found.times_ms)
    print(f"{found.statuses_per_s:,.0f} statuses/s taken, {found.messages_per_s:,.0f} messages/s sent meanwhile")
    print(f"median {found.share(0.5):.1f} ms, p99 {found.share(0.99):.1f} ms, slowest {found.times_ms[-1]:.1f} ms")
    print(f"over 1 s: {slow:.2%}; processor seconds: ", end="")
    print(", ".join(f"{name} {seconds:.1f}" for name, seconds in found.used.cpu_s.items()))
    return 0 if found.share(0.5) <= _GOAL_MS else 1


def measure(wanted: Wanted) -> Found:
    """Run the system in a temporary folder and measure it; raises BenchmarkError."""
    jobs = int(wanted.messages * (wanted.seconds + _WARM_UP_S + _SPARE_S))
    with tempfile.TemporaryDirectory(prefix="kurir-hooks-") as name:
        sink = Sink(Path(name))
        try:
            with running(Load(jobs), Path(name), sink.port) as kurir:
                kurir.env |= {"KURIR_HOOK_TOKEN": TOKEN, "KURIR_META_APP_SECRET": SECRET}
                kurir.env |= {"KURIR_EMAIL_RATE": f"{wanted.messages}/1s"} if jobs else {}
                kurir.start(["logger", "receipts", "ingest", *["email_sender"] * bool(jobs)])
                if jobs:
                    kurir.post(BLAST, blast_body(jobs))
                time.sleep(_WARM_UP_S)
                return _measured(kurir, wanted, {sink.name: sink.pid})
        finally:
            sink.stop()


def _measured(kurir: Kurir, wanted: Wanted, others: dict[str, int]) -> Found:
    before, sent_before, begun = kurir.usage(others), kurir.sent(), time.monotonic()
    times_ms = asyncio.run(_Clients(kurir.port, wanted).run())
    seconds, sent = time.monotonic() - begun, kurir.sent() - sent_before
    added = int(kurir.redis.xinfo_stream("receipts")["entries-added"])
    if added != wanted.requests:
        raise BenchmarkError(f"of {wanted.requests} requests that were answered with 200, {added} are in the stream")
    used = kurir.usage(others).since(before)
    return Found(sorted(times_ms), wanted.requests * wanted.batch / seconds, sent / seconds, used)


class _Clients:
    """Sends the requests at their times over kept connections, each on the first that is free."""

    def __init__(self, port: int, wanted: Wanted) -> None:
        self._port = port
        self._wanted = wanted
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def run(self) -> list[float]:
        """Return the time of each request in ms; raises BenchmarkError if one is not taken."""
        for _ in range(_CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection(LOCALHOST, self._port))
        begun, tasks = time.monotonic(), []
        for number in range(self._wanted.requests):
            request = _request(number, self._wanted.batch)
            due = begun + number * self._wanted.batch / self._wanted.statuses
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
        if b" 200 " not in head.splitlines()[0]:
            raise BenchmarkError(f"a request was not taken: {head.splitlines()[0]!r} {body!r}")
        self._free.put_nowait(connection)
        return taken_ms


def _request(number: int, batch: int) -> bytes:
    """Return a request of Meta with statuses of messages that differ from all others."""
    statuses = [
        {
            "id": f"wamid.HBgNNjI4MTI3NzAwMDAwMBUCABEYEjdFRkY{number * batch + index:09}==",
            "status": "delivered",
            "timestamp": str(int(time.time())),
            "recipient_id": f"62812{(number * batch + index) % 100_000_000:08}",
            "biz_opaque_callback_data": f"0k3v9xq2mzt81abc:{number * batch + index}:whatsapp",
            "pricing": {"billable": True, "pricing_model": "PMP", "type": "regular", "category": "utility"},
        }
        for index in range(batch)
    ]
    metadata = {"display_phone_number": "6281100000000", "phone_number_id": "106540352242922"}
    value = {"messaging_product": "whatsapp", "metadata": metadata, "statuses": statuses}
    entry = {"id": "102290129340398", "changes": [{"field": "messages", "value": value}]}
    body = orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return (
        f"POST /hooks/meta/{TOKEN} HTTP/1.1\r\nHost: {LOCALHOST}\r\nContent-Type: application/json\r\n"
        f"X-Hub-Signature-256: sha256={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


if __name__ == "__main__":
    sys.exit(main())
