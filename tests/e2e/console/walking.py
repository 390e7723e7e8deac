"""What journeys through the console share: files, and what the API says about what the page did."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import FilePayload

from tests.e2e.console.conftest import ADMIN
from tests.e2e.system import System


def file(name: str, content: str) -> FilePayload:
    """Return a file for a page to take."""
    return {"name": name, "mimeType": "text/plain", "buffer": content.encode()}


def call(system: System, path: str) -> dict[str, Any]:
    """GET a path as the administrator."""
    return system.get(path, ADMIN)


def accept(system: System, reference: str, addresses: list[str], **terms: Any) -> str:
    """Send a blast to these addresses and return its id."""
    head = {"templateId": "otp", "channels": ["email"], "reference": reference, **terms}
    people = [{"email": address, "variables": {"code": "1"}} for address in addresses]
    return str(system.send("POST", "/api/messages/blast", head | {"recipients": people}, ADMIN)["blastId"])


def fail(system: System, reference: str, count: int) -> str:
    """Send a blast of which every message bounces, wait until it has ended, and return its id."""
    # suppressed from their first failure on, so each blast needs its own addresses
    local = "".join(letter for letter in reference.lower() if letter.isalnum())
    blast_id = accept(system, reference, [f"bounce+{local}{one}@example.com" for one in range(count)])
    wait(lambda: bool(call(system, f"/api/blasts/{blast_id}")["blast"]["counts"]["failed"] == count))
    wait(lambda: len(call(system, f"/api/logs/messages?blast={blast_id}&status=failed")["logs"]) == count)
    return blast_id


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)
