"""One system and one browser for the tests of the console."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests import servers
from tests.e2e.console.browser import NARROW, WIDE, Look, Visit, launch, visiting
from tests.e2e.console.hands import Hand, Keyboard, Mouse
from tests.e2e.system import System

ADMIN_KEY, READ_KEY, MASKED_KEY = "admin-key-0123456789", "read-key-0123456789", "masked-key-0123456789"
ENV = {
    "KURIR_API_KEYS": f"chief:{ADMIN_KEY}:admin,guest:{READ_KEY}:read,screen:{MASKED_KEY}:read-masked",
    "KURIR_RATE_LIMIT": "off",
    "KURIR_WEBHOOK_ALLOW": "127.0.0.1",
}
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
HANDS: dict[str, type[Mouse | Keyboard]] = {"mouse": Mouse, "keyboard": Keyboard}
HOSTILE = '<img src=x onerror=alert(1)> "quoted" '
TURNED = "\u202edenrut\u202c"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of one file: while Playwright runs, no other event loop can run in the process."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def system() -> Iterator[System]:
    """A whole system with keys, whose providers are the sandbox; its data is where the servers of tests keep theirs.

    It ends with the last test of this folder: an idle system takes the tests after it one part in fifty of a core.
    """
    with tempfile.TemporaryDirectory(prefix="kurir-console-", dir=servers.data_parent) as folder:
        found = System(Path(folder), ENV)
        try:
            found.up()
            yield found
        finally:
            children = found.children()
            found.interrupt()
            found.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


@pytest.fixture(scope="package")
def url(system: System) -> str:
    return f"http://127.0.0.1:{system.port}"


@pytest.fixture(params=[("mouse", WIDE), ("keyboard", NARROW)], ids=lambda param: f"{param[0]}-{param[1]}")
def walk(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[tuple[Visit, Hand]]:
    """A mouse on a wide light screen, and a keyboard on a narrow dark one."""
    kind, look = request.param
    assert isinstance(look, Look)
    with visiting(browser, url, look, ADMIN_KEY) as visit:
        yield visit, HANDS[kind](visit.page)


@pytest.fixture(scope="package")
def blast(system: System) -> str:
    """A blast that has ended: most messages sent, three bounced."""
    head = {
        "templateId": "otp",
        "channels": ["email"],
        "reference": f"the {HOSTILE}",
        "metadata": {"team": HOSTILE + TURNED},
    }
    answer = system.send("POST", "/api/messages/blast", head | {"recipients": _recipients()}, ADMIN)
    blast_id = str(answer["blastId"])
    deadline = time.monotonic() + 60
    while _blast(system, blast_id)["state"] != "completed_with_failures":
        assert time.monotonic() < deadline, _blast(system, blast_id)
        time.sleep(0.2)
    return blast_id


def _blast(system: System, blast_id: str) -> dict[str, Any]:
    found: dict[str, Any] = system.get(f"/api/blasts/{blast_id}", ADMIN)["blast"]
    return found


def _recipients() -> list[dict[str, Any]]:
    """Some that are sent, some that bounce, one whose name is hostile."""
    people = [{"name": f"Person {one}", "email": f"person{one}@example.com"} for one in range(10)]
    people += [{"name": f"Gone {one}", "email": f"bounce+{one}@example.com"} for one in range(3)]
    people.append({"name": HOSTILE + "x" * 80, "email": "hostile@example.com"})
    return [one | {"variables": {"code": "482913"}} for one in people]
