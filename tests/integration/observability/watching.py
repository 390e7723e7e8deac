"""Prometheus and Alertmanager with the shipped configuration, watching a running system 30 times faster.

Only three things differ: DNS discovery is replaced by the system's ports, durations are divided by 30, and
Alertmanager's receivers, which are shipped without an address, get a webhook.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.debian import program
from tests.e2e.system import System
from tests.servers import free_port

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
SCALE = 30
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+)([smhd])")


def scaled(duration: str) -> str:
    """Return a thirtieth of a duration, at least a second."""
    found = _DURATION.fullmatch(duration)
    assert found is not None, duration
    return f"{max(1, int(found[1]) * _UNITS[found[2]] // SCALE)}s"


def scaled_rules() -> dict[str, Any]:
    """Return the alert rules with their windows and `for` shortened."""
    rules: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["for"] = scaled(rule["for"])
            rule["expr"] = re.sub(r"\[(\d+[smhd])\]", lambda window: f"[{scaled(window[1])}]", rule["expr"])
    return rules


class Webhook:
    """The receiver of Alertmanager's calls; it keeps the alerts."""

    def __init__(self) -> None:
        received: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.extend(json.loads(body)["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                return

        self.received = received
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def received_alert(self, alert: str, status: str) -> bool:
        """Return whether Alertmanager has sent an alert as `firing` or `resolved`."""
        return any(one["labels"]["alertname"] == alert and one["status"] == status for one in self.received)


class Prometheus:
    """The API of a running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query; an error of the query fails the test."""
        found = self._get("/query?" + urllib.parse.urlencode({"query": expression}))
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def targets_up(self) -> dict[str, int]:
        """Return the number of answering targets of each job."""
        series = self.query("sum by (job) (up)")
        return {one["metric"]["job"]: int(one["value"][1]) for one in series}

    def _get(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from error
        return found


@contextmanager
def watching(system: System, folder: Path, webhook: Webhook) -> Iterator[Prometheus]:
    """Run both next to a system while the block runs."""
    alertmanager_port, port = free_port(), free_port()
    children = [_alertmanager(folder, webhook, alertmanager_port), _prometheus(system, folder, port, alertmanager_port)]
    try:
        _wait_until_ready(port)
        yield Prometheus(port)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(60)


def _alertmanager(folder: Path, webhook: Webhook, port: int) -> subprocess.Popen[bytes]:
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": webhook.url, "send_resolved": True}]
    routes = [config["route"], *config["route"]["routes"]]
    for name, route in ((name, route) for route in routes for name in ("group_wait", "group_interval")):
        if name in route:
            route[name] = "1s"
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config))
    command = [program("prometheus-alertmanager"), f"--config.file={path}", f"--storage.path={folder / 'alerts'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    return _start(command, folder / "alertmanager.log")


def _prometheus(system: System, folder: Path, port: int, alertmanager_port: int) -> subprocess.Popen[bytes]:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]}]
    ports = {"ingest": 0, "email_sender": 10, "whatsapp_sender": 20, "logger": 30, "receipts": 40, "webhook_sender": 50}
    config["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{system.port + offset}"]}]}
        for job, offset in ports.items()
    ]
    (folder / "alerts.yml").write_text(yaml.safe_dump(scaled_rules()))
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    command = [program("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    return _start(command, folder / "prometheus.log")


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=output)


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=2).close()
        except OSError:
            assert time.monotonic() < deadline, "Prometheus did not become ready"
            time.sleep(0.1)
        else:
            return
