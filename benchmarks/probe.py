"""Idle latency: a client that posts single messages, and an SMTP server that records when it is called.

Both run on one event loop, so their times are on one clock; nothing else runs there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from benchmarks.kurir import LOCALHOST, Kurir
from benchmarks.processes import BenchmarkError
from benchmarks.workload import message_body

_TIMEOUT_S = 20.0
_REPLIES = {b"EHLO": b"250-probe\r\n250-PIPELINING\r\n250 8BITMIME\r\n", b"QUIT": b"221 2.0.0 Bye\r\n"}
_OK = b"250 2.0.0 Ok\r\n"
_SEND_DATA = b"354 End with a dot\r\n"
_END_OF_DATA = b"\r\n.\r\n"


@dataclass(slots=True)
class Calls:
    """The arrival times of the MAIL commands, on the monotonic clock."""

    times: asyncio.Queue[float] = field(default_factory=asyncio.Queue)


class _Session(asyncio.Protocol):
    """An SMTP server's side of one connection; it accepts everything."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._received = b""
        self._in_data = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 probe ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer the received commands."""
        now = time.monotonic()
        self._received += data
        answers = []
        while (answer := self._next(now)) is not None:
            answers.append(answer)
        if answers and self._transport is not None:
            self._transport.write(b"".join(answers))

    def _next(self, now: float) -> bytes | None:
        """Return the answer to the next complete command or message, or None if it is incomplete."""
        end = _END_OF_DATA if self._in_data else b"\r\n"
        unit, found, rest = self._received.partition(end)
        if not found:
            return None
        self._received = rest
        if self._in_data:
            self._in_data = False
            return _OK
        verb = unit[:4].upper()
        if verb == b"MAIL":
            self._calls.times.put_nowait(now)
        self._in_data = verb == b"DATA"
        return _SEND_DATA if self._in_data else _REPLIES.get(verb, _OK)


class Probe:
    """The SMTP server; `port` is set once it runs."""

    def __init__(self) -> None:
        self.calls = Calls()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        """Start listening."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Session(self.calls), LOCALHOST, port)

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()


async def measure(kurir: Kurir, probe: Probe, pause_s: float) -> list[float]:
    """Return for each message the ms from the answer to its POST until the call of the provider.

    The value is negative if the provider was called before the answer was read.
    """
    reader, writer = await asyncio.open_connection(LOCALHOST, kurir.port)
    try:
        waits = []
        for index in range(kurir.load.jobs):
            answered = await _post(kurir, reader, writer, message_body(index))
            async with asyncio.timeout(_TIMEOUT_S):
                called = await probe.calls.times.get()
            waits.append((called - answered) * 1000)
            await asyncio.sleep(pause_s)
        return waits
    finally:
        writer.close()


async def _post(kurir: Kurir, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> float:
    head = (
        f"POST /api/messages HTTP/1.1\r\nHost: {LOCALHOST}:{kurir.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    if b" 202 " not in answer.partition(b"\r\n")[0]:
        raise BenchmarkError(f"POST /api/messages: {answer[:300]!r}")
    headers = dict(line.split(b": ", 1) for line in answer.lower().split(b"\r\n")[1:] if line)
    await reader.readexactly(int(headers[b"content-length"]))
    return time.monotonic()
