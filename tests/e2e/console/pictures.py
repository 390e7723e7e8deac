"""The pictures of the console in the documents, taken from a running system by a test."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, FilePayload

from tests.e2e.console.browser import NARROW, Look, Visit, visiting
from tests.e2e.console.conftest import ADMIN, ADMIN_KEY
from tests.e2e.system import System

_WIDE = Look(1280, "light")
_NAMES = ("Siti Rahmawati", "Budi Santoso", "Wati Lestari", "Joko Prasetyo", "Ayu Wulandari", "Agus Hidayat",
          "Dewi Anggraini", "Rizky Pratama", "Putri Maharani", "Eko Saputra")  # fmt: skip
_HOSTS = ("example.com", "mail.example.org", "example.net")
# without the badge that a heading may have
_HEADINGS = "(all) => all.map((one) => one.firstChild.textContent.trim())"
_RATES = {"email": "60/1s", "whatsapp": "20/1s"}
# the beginning of a chunk with our text, uncompressed and of no language
_ITXT = b"iTXtSections\0\0\0\0\0"
_ROWS = (
    "Customer;E-mail;Invoice;Due;Total",
    "Siti Rahmawati;siti@example.com;INV-2026-0141;2026-12-15;1250000",
    "Budi Santoso;budi@example;INV-2026-0142;2026-12-15;310000",
    "Wati Lestari;wati@example.com;INV-2026-0143;15 December;499000",
    "Joko Prasetyo;joko@example.com;INV-2026-0144;2026-12-16;",
    "Ayu Wulandari;ayu@example.org;INV-2026-0145;2026-12-16;2100000",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the pictures show: the recipients of the blast that has ended and of those that flow, and for how long."""

    recipients: int
    letters: int
    welcomes: int
    flow_s: float


FULL, SHORT = Scene(600, 9000, 3000, 45), Scene(120, 3000, 1000, 1)
"""For the documents, whose charts have something to show; and for a test, which only takes them."""


def take(system: System, browser: Browser, folder: Path, scene: Scene) -> None:
    """Let some blasts flow through a system, write the pictures into a folder, and end what flows."""
    ended, *flowing = _fill(system, scene)
    try:
        _pictures(system, browser, folder, ended, scene)
    finally:
        for blast_id in flowing:
            _change(system, "POST", f"/api/blasts/{blast_id}/cancel")
        for channel in _RATES:
            _change(system, "PATCH", f"/api/channels/{channel}", {"rate": None})


def size_of(picture: Path) -> tuple[int, int]:
    """Return a picture's width and height."""
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    return width, height


def sections_of(picture: Path) -> list[str]:
    """Return the headings of the sections that a picture shows, which it carries as a text."""
    content = picture.read_bytes()
    start = content.find(_ITXT)
    if start < 0:
        return []
    (length,) = struct.unpack(">I", content[start - 4 : start])
    return content[start + len(_ITXT) : start + 4 + length].decode().split("\n")


def _pictures(system: System, browser: Browser, folder: Path, blast: str, scene: Scene) -> None:
    url = f"http://127.0.0.1:{system.port}"
    with visiting(browser, url, _WIDE, ADMIN_KEY) as visit:
        visit.open("/")
        time.sleep(scene.flow_s)
        visit.page.wait_for_selector("text=Messages a second, the last minutes")
        visit.page.wait_for_selector("h2:has-text('Failed last')")
        _shoot(visit, folder / "console-overview.png")
        visit.open(f"/blasts/{blast}")
        visit.page.wait_for_selector("text=Failures by reason")
        _shoot(visit, folder / "console-blast.png", 840)
        visit.page.click("tr:has-text('5.1.1') td a")
        visit.page.click("tbody th a >> nth=0")
        visit.page.wait_for_selector(".said")
        _shoot(visit, folder / "console-message.png", 760)
        _send(visit, folder)
        visit.open("/templates/invoice_reminder")
        visit.page.frame_locator("iframe.mail").get_by_text("INV-2026").first.wait_for()
        _shoot(visit, folder / "console-template.png", 940)
    with visiting(browser, url, NARROW, ADMIN_KEY) as visit:
        visit.open(f"/blasts/{blast}")
        visit.page.wait_for_selector("text=Failures by reason")
        _shoot(visit, folder / "console-phone.png", 844)


def _send(visit: Visit, folder: Path) -> None:
    content = "\n".join(_ROWS).encode()
    file: FilePayload = {"name": "invoices-december.csv", "mimeType": "text/csv", "buffer": content}
    visit.open("/send?template=invoice_reminder")
    visit.page.set_input_files("input[type=file]", file)
    visit.page.wait_for_selector("text=3. Columns")
    visit.page.get_by_label("WhatsApp", exact=True).uncheck()
    for column, name in (("Customer", "name"), ("Invoice", "order_number"), ("Due", "due_date"), ("Total", "amount")):
        visit.page.get_by_label(f"What the column {column} is").select_option(name)
    visit.page.click("text=Check all rows")
    visit.page.wait_for_selector("text=can be sent to")
    visit.page.frame_locator("iframe.mail").get_by_text("INV-2026-0141").first.wait_for()
    # the preview before the columns were named
    visit.forgive("422")
    visit.page.evaluate("document.querySelector('.columns.wide').scrollIntoView()")
    _shoot(visit, folder / "console-send.png", 1000, settle_s=0.8)


def _shoot(visit: Visit, path: Path, height: int = 900, settle_s: float = 0.5) -> None:
    visit.page.set_viewport_size({"width": visit.page.viewport_size["width"], "height": height})  # type: ignore[index]
    time.sleep(settle_s)
    visit.check()
    sections = visit.page.eval_on_selector_all("main h2", _HEADINGS)
    path.write_bytes(_with_text(visit.page.screenshot(), "\n".join(sections)))


def _with_text(picture: bytes, text: str) -> bytes:
    """Return a PNG with a text in it (PNG specification, 11.3.3.4), after its header of 33 bytes."""
    chunk = _ITXT + text.encode()
    return b"".join(
        (picture[:33], struct.pack(">I", len(chunk) - 4), chunk, struct.pack(">I", zlib.crc32(chunk)), picture[33:])
    )


def _fill(system: System, scene: Scene) -> list[str]:
    """Send some blasts; return the ids of one that has ended with failures, and of those that are on their way."""
    invoices = {"templateId": "invoice_reminder", "channels": ["email", "whatsapp"]}
    ended = _blast(system, invoices | {"reference": "Invoices of November"}, scene.recipients, _invoice)
    while "ended" not in _state(system, ended):
        time.sleep(0.5)
    for channel, rate in _RATES.items():
        _change(system, "PATCH", f"/api/channels/{channel}", {"rate": rate})
    letter = {"templateId": "newsletter", "channels": ["email"], "reference": "Winter newsletter"}
    welcome = {"templateId": "welcome", "channels": ["whatsapp"], "reference": "Welcome, new customers"}
    return [ended, _blast(system, letter, scene.letters, _issue), _blast(system, welcome, scene.welcomes, _start)]


def _change(system: System, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    system.send(method, path, body or {}, ADMIN)


def _state(system: System, blast_id: str) -> str:
    blast: dict[str, Any] = system.get(f"/api/blasts/{blast_id}", ADMIN)["blast"]
    return "ended" if blast["endedAt"] else "running"


def _blast(system: System, head: dict[str, Any], size: int, variables: Callable[[int], dict[str, Any]]) -> str:
    people = [_person(number) | {"variables": variables(number)} for number in range(size)]
    return str(system.send("POST", "/api/messages/blast", head | {"recipients": people}, ADMIN)["blastId"])


def _person(number: int) -> dict[str, Any]:
    name, host = _NAMES[number % len(_NAMES)], _HOSTS[number % len(_HOSTS)]
    local = "bounce" if number % 97 == 5 else "flaky" if number % 211 == 7 else name.split()[0].lower()
    phone = f"+62812{number:07d}" + ("131000" if number % 149 == 9 else "")
    return {"name": name, "email": f"{local}+{number}@{host}", "phone": phone[:15]}


def _invoice(number: int) -> dict[str, Any]:
    amount = random.Random(number).randrange(100, 3000) * 1000
    return {"order_number": f"INV-2026-{number:04d}", "amount": amount, "due_date": "2026-12-15"}


def _issue(_: int) -> dict[str, Any]:
    return {"month": "December 2026", "headline": "Two new warehouses", "story": "In Surabaya and in Makassar."}


def _start(_: int) -> dict[str, Any]:
    return {"start_url": "https://example.com/start"}
