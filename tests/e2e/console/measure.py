"""How long each page of the console takes to show what it is for, with the log of a data folder.

    python scripts/make_log_rows.py --data-dir FOLDER/data
    python -m tests.e2e.console.measure FOLDER

A page is there when its heading and its rows or figures are drawn; the count of all that match may come later.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.e2e.console.browser import WIDE, launch, visiting
from tests.e2e.console.conftest import ADMIN, ADMIN_KEY, ENV
from tests.e2e.system import System

GOAL_MS = 300.0
_ROUNDS = 7
_ROWS = "tbody tr"
# goes to a page as a link does, and waits until it has drawn what it is for
_GO = """async ([path, selector]) => {
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const began = performance.now();
  history.pushState(null, "", "/console" + path);
  dispatchEvent(new PopStateEvent("popstate"));
  await frame();
  while (document.querySelector("main .loading") || !document.querySelector("main " + selector)) {
    if (performance.now() - began > 20000) break;
    await frame();
  }
  await frame();
  return performance.now() - began;
}"""


def pages_of(system: System) -> list[tuple[str, str]]:
    """Return the paths to measure, each with what it must have drawn."""
    row = system.get("/api/logs/messages?limit=1", ADMIN)["logs"][0]
    blast, address = row["blast_id"], row["recipient_email"] or row["recipient_phone"]
    return [
        ("/", ".figure"), ("/send", "h2"), ("/blasts", _ROWS), (f"/blasts/{blast}", ".figure"), ("/messages", _ROWS),
        ("/messages?status=failed", _ROWS), ("/messages?delivery=bounced", _ROWS), (f"/messages?blast={blast}", _ROWS),
        (f"/messages?recipient={address}", _ROWS), (f"/messages?recipient={address[:6]}", _ROWS),
        ("/messages?channel=whatsapp&status=cancelled", _ROWS), (f"/messages/{row['job_id']}", ".story li"),
        ("/templates", _ROWS), ("/templates/otp", "form"), ("/suppressions", ".empty, main tbody tr"),
        ("/channels", ".figure"), ("/webhooks", ".empty, main tbody tr"), ("/logs", _ROWS),
        ("/logs?of=system", ".empty, main tbody tr"),
    ]  # fmt: skip


def measure(page: Page, path: str, selector: str) -> list[float]:
    """Return in ms how long a page took, coming each time from a page that does not exist."""
    found = []
    for _ in range(_ROUNDS):
        page.evaluate(_GO, ["/nowhere", "h1"])
        found.append(float(page.evaluate(_GO, [path, selector])))
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure every page; return 1 if one takes longer than it may."""
    system, slow = System(Path(arguments[0]), ENV), 0
    system.up()
    try:
        with sync_playwright() as playwright:
            browser = launch(playwright)
            with visiting(browser, f"http://127.0.0.1:{system.port}", WIDE, ADMIN_KEY) as visit:
                visit.open("/")
                for path, selector in pages_of(system):
                    times = measure(visit.page, path, selector)
                    median = statistics.median(times)
                    slow += median > GOAL_MS
                    shown = f"first {times[0]:6.0f} ms  median {median:6.0f} ms  worst {max(times):6.0f} ms"
                    sys.stdout.write(f"{path:55} {shown}\n")
            browser.close()
    finally:
        system.interrupt()
        system.kill()
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
