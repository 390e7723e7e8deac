"""The running system, watched by the real Prometheus and Alertmanager with the shipped configuration."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.system import System
from tests.integration.observability.watching import DEPLOY, Prometheus, Webhook, scaled_rules, watching

RATE_INTERVAL = "10s"
ADDRESSES = ("ok", "ok", "ok", "bounce", "flaky", "greylist")
_COMPARISON = re.compile(r"^(?P<left>.+?)\s(?:==|>=|<=|>|<)\s[0-9.]+$")
_ABSENCE = re.compile(r"^label_replace\(absent\((?P<left>.+?) == 1\),.*$")

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True, slots=True)
class Watched:
    """A system with traffic, and its monitoring."""

    system: System
    prometheus: Prometheus
    webhook: Webhook


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Run a sandboxed system with constant traffic, part of which fails."""
    folder = tmp_path_factory.mktemp("watched")
    system = System(folder, {"KURIR_EMAIL_RATE": "off", "KURIR_WHATSAPP_RATE": "off"})
    system.up("--sandbox")
    webhook, stop = Webhook(), threading.Event()
    traffic = threading.Thread(target=keep_sending, args=(system, stop))
    traffic.start()
    try:
        with watching(system, folder, webhook) as prometheus:
            yield Watched(system, prometheus, webhook)
    finally:
        stop.set()
        traffic.join(120)
        webhook.close()
        system.interrupt()


def blast(number: int) -> dict[str, Any]:
    """Return a small blast for both channels; each address is new, since hard bounces are suppressed."""
    recipients = [
        {
            "name": f"Person {place}",
            "email": f"{address}+{number}.{place}@example.com",
            "phone": f"+62812{number % 100:02}{131026 if address == 'bounce' else 100000 + place}",
            "variables": {"order_number": f"INV-{number}", "amount": 1000, "due_date": "2026-12-01"},
        }
        for place, address in enumerate(ADDRESSES)
    ]
    return {"templateId": "invoice_reminder", "channels": ["email", "whatsapp"], "recipients": recipients}


def keep_sending(system: System, stop: threading.Event) -> None:
    number = 0
    while not stop.wait(0.25):
        number += 1
        try:
            system.post("/api/messages/blast", blast(number))
        except OSError as error:  # no answer, or "try again": the machine may stand still for seconds
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                if error.code != 503:
                    raise


def eventually(true: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.25)


def dashboard_queries() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{path.stem}: {panel['title']} {target['refId']}")
        for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


def alert_sides() -> list[Any]:
    """Return the left side of every comparison in every alert."""
    found = []
    for rule in (rule for group in scaled_rules()["groups"] for rule in group["rules"]):
        lines = [line.strip() for line in rule["expr"].splitlines()]
        sides = [match["left"] for line in lines if (match := _ABSENCE.match(line) or _COMPARISON.match(line))]
        assert sides, rule["alert"]
        found += [pytest.param(side, id=f"{rule['alert']} {place}") for place, side in enumerate(sides)]
    return found


def test_every_service_is_scraped(watched: Watched) -> None:
    """Prometheus reads each service's metrics without an error."""
    wanted = dict.fromkeys(("ingest", "email_sender", "whatsapp_sender", "webhook_sender", "logger", "receipts"), 1)
    eventually(lambda: watched.prometheus.targets_up() == wanted, 30, "every target up")


@pytest.mark.parametrize("expression", dashboard_queries())
def test_every_dashboard_query_returns_data(watched: Watched, expression: str) -> None:
    """No panel is empty because of a wrong name or label."""
    query = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$channel", "email")
    eventually(lambda: watched.prometheus.query(query), 40, query)


@pytest.mark.parametrize("side", alert_sides())
def test_every_alert_expression_returns_data(watched: Watched, side: str) -> None:
    """No alert is silent because its series do not exist."""
    eventually(lambda: watched.prometheus.query(side), 40, side)


def test_a_stopped_sender_reaches_the_webhook(watched: Watched) -> None:
    """Alertmanager passes on the alert for work without senders, and resolves it once the sender works again."""
    sender = watched.system.child("email_sender")
    assert sender is not None
    os.kill(sender.pid, signal.SIGSTOP)
    try:
        eventually(lambda: watched.webhook.received_alert("KurirSendersDown", "firing"), 90, "the alert at the webhook")
    finally:
        os.kill(sender.pid, signal.SIGCONT)
    eventually(lambda: watched.webhook.received_alert("KurirSendersDown", "resolved"), 60, "its end at the webhook")


def test_scraping_is_quick(watched: Watched) -> None:
    """Prometheus measures less than 50 ms for scrapes of the logger, which has the most metrics.

    Other processes only add to a time: on a busy machine the median shows them, the quickest tenth what a scrape takes.
    """
    scrapes = 'scrape_duration_seconds{job="logger"}[60s]'
    (counted,) = watched.prometheus.query(f"count_over_time({scrapes})")
    assert int(counted["value"][1]) >= 10
    (quick,) = watched.prometheus.query(f"quantile_over_time(0.1, {scrapes})")
    assert float(quick["value"][1]) < 0.05
