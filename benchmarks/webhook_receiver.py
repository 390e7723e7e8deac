"""A client's endpoint for webhooks: `python -m benchmarks.webhook_receiver PORT`.

It checks each signature, keeps each body and answers 200; a wrong signature gets 401. For each line on its stdin it
prints how many events it has, and how many of them are different ones. It reads the bodies only then, so that it takes
little of the processor while messages go out.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import cast

import orjson

from benchmarks.processes import serve_counts

_KEY = b"a secret of the benchmarks, 32 b"
SECRET = f"whsec_{base64.b64encode(_KEY).decode()}"
_END = b"\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_WRONG = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class Received:
    """The bodies of all requests with a good signature, by `webhook-id`, and the number of all requests."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    requests: int = 0

    def take(self, headers: dict[str, str], body: bytes) -> bytes:
        """Take a request; return the answer."""
        self.requests += 1
        webhook_id, signed_at = headers["webhook-id"], headers["webhook-timestamp"]
        content = b"%s.%s.%s" % (webhook_id.encode(), signed_at.encode(), body)
        wanted = f"v1,{base64.b64encode(hmac.digest(_KEY, content, hashlib.sha256)).decode()}"
        if not hmac.compare_digest(wanted, headers["webhook-signature"]):
            return _WRONG
        self.bodies[webhook_id] = body
        return _OK

    def counts(self) -> dict[str, int]:
        """Return the number of requests, of events in them, and of different events about sent messages."""
        events, sent = 0, set()
        for webhook_id, body in self.bodies.items():
            whole = orjson.loads(body)
            every = whole["data"] if whole["type"] == "batch" else [{"id": webhook_id, **whole}]
            events += len(every)
            sent |= {one["data"]["jobId"] for one in every if one["type"] == "message.sent"}
        return {"requests": self.requests, "events": events, "sent": len(sent)}


class _Connection(asyncio.Protocol):
    """Reads requests that are kept alive and have a length."""

    def __init__(self, received: Received) -> None:
        self._received = received
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(_END)) >= 0:
            headers = _headers(self._buffer[:end])
            whole = end + len(_END) + int(headers["content-length"])
            if len(self._buffer) < whole:
                return
            body = bytes(self._buffer[end + len(_END) : whole])
            del self._buffer[:whole]
            assert self._transport is not None
            self._transport.write(self._received.take(headers, body))


def _headers(head: bytes | bytearray) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def main() -> None:
    """Serve until stdin is closed."""
    received = Received()
    serve_counts(lambda: _Connection(received), received.counts)


if __name__ == "__main__":
    main()
