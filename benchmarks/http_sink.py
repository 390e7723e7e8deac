"""WhatsApp's API as the provider of both sides: accepts every message, and counts them.

`python -m benchmarks.http_sink PORT` answers each POST as Meta does. For each line on its stdin it prints how many
requests came, and to how many different recipients. It reads the bodies only then, and takes little of the processor
while messages go out.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import cast

import orjson

from benchmarks.processes import BenchmarkError, Child, clean_environment, serve_counts
from tests.servers import free_port

VERSION, NUMBER_ID, TOKEN = "v23.0", "1000", "a-token-of-the-benchmarks"
MESSAGES_PATH = f"/{VERSION}/{NUMBER_ID}/messages"
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_BODY = b'{"messaging_product":"whatsapp","contacts":[{"input":"%d","wa_id":"%d"}],"messages":[{"id":"wamid.%050d"}]}'
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nDate: Sun, 29 Nov 2026 12:00:00 GMT\r\n"
    b"Connection: keep-alive\r\nContent-Length: %d\r\n\r\n"
)
_REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
_TIMEOUT_S = 30.0


class Sink:
    """A running sink."""

    name = "http-sink"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "benchmarks.http_sink", str(self.port)]
        self._child = Child("http-sink-0", command, clean_environment(), folder)
        self._child.answer(_TIMEOUT_S)

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._child.pid

    def count(self) -> int:
        """Return the number of messages it has accepted; raises BenchmarkError if a recipient got two."""
        self._child.send_line()
        counts = self._child.answer(_TIMEOUT_S)
        if counts["requests"] != counts["recipients"]:
            raise BenchmarkError(f"a recipient got two messages: {counts}")
        return int(counts["requests"])

    def stop(self) -> None:
        """Stop it."""
        self._child.stop()


class Received:
    """The bodies of all requests."""

    def __init__(self) -> None:
        self._bodies: list[bytes] = []

    def take(self, head: bytes, body: bytes) -> bytes:
        """Take a request; return the answer."""
        if not head.startswith(b"POST %s HTTP/1.1\r\n" % MESSAGES_PATH.encode()) or TOKEN.encode() not in head:
            return _REFUSED
        number = len(self._bodies)
        self._bodies.append(body)
        answer = _BODY % (number, number, number)
        return _HEAD % len(answer) + answer

    def counts(self) -> dict[str, int]:
        """Return the number of requests, and of the recipients in them."""
        recipients = {orjson.loads(body)["to"] for body in self._bodies}
        return {"requests": len(self._bodies), "recipients": len(recipients)}


class _Connection(asyncio.Protocol):
    """Reads requests that are kept alive and have a length."""

    def __init__(self, received: Received) -> None:
        self._received = received
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(_END)) >= 0:
            head = self._buffer[:end]
            named = head.lower().find(_LENGTH) + len(_LENGTH)
            whole = end + len(_END) + int(head[named:].split(b"\r", 1)[0])
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + len(_END) : whole], self._buffer[whole:]
            assert self._transport is not None
            self._transport.write(self._received.take(head, body))


def main() -> None:
    """Serve until stdin is closed."""
    received = Received()
    serve_counts(lambda: _Connection(received), received.counts)


if __name__ == "__main__":
    main()
