"""An endpoint of a client: a server that keeps what it is sent, and checks each signature as the standard says."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_TOLERANCE_S = 300


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request: its headers in lower case, its body, and when it arrived."""

    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    def signed_by(self, secret: str) -> bool:
        """Return whether one of its signatures is by this secret, and of now, with the tolerance of the standard."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed_at = self.headers["webhook-timestamp"]
        content = f"{self.webhook_id}.{signed_at}.".encode() + self.body
        expected = "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode()
        return expected in self.headers["webhook-signature"].split() and abs(int(signed_at) - self.at_s) < _TOLERANCE_S

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its events, each with its id."""
        event = json.loads(self.body)
        if event["type"] != "batch":
            return [{**event, "id": self.webhook_id}]
        found: list[dict[str, Any]] = event["data"]
        return found


@dataclass
class ClientEndpoint:
    """A running endpoint; it answers with the next of `answers`, and with 204 after the last."""

    url: str = ""
    arrived: list[Arrived] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Return the events that were accepted so far, of one type or of all, in their order."""
        return [one for request in list(self.arrived) for one in request.events if kind in {"", one["type"]}]

    def jobs(self, kind: str) -> set[str]:
        """Return the jobs that events of a type are about."""
        return {str(one["data"]["jobId"]) for one in self.events(kind)}

    def check_signatures(self, secrets: Sequence[str]) -> None:
        """Check that every request is signed by all of these secrets."""
        for request in list(self.arrived):
            for secret in secrets:
                assert request.signed_by(secret), (request.headers, secret)


@contextmanager
def client_endpoint() -> Iterator[ClientEndpoint]:
    """Run an endpoint on loopback."""
    endpoint = ClientEndpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = endpoint.answers.pop(0) if endpoint.answers else 204
            if status == 204:
                endpoint.arrived.append(Arrived(headers, body, time.time()))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/kurir"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
