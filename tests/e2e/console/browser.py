"""Debian's Chromium, driven by Playwright, as strict as the console promises: no word in its log, no other host."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import axe_playwright_python
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response

from tests.debian import program

_AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# a mail's frame has no axe: asking it takes half a second, and the browser notes that it is of another origin
_RUN_AXE = "(rules) => axe.run(document, {runOnly: rules, resultTypes: ['violations'], iframes: false})"
_RULES_OF_LOOKS = ["color-contrast", "target-size", "scrollable-region-focusable", "link-in-text-block"]
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_SHOWN = """document.body.innerText + performance.getEntriesByType("resource").slice(-12).map((one) =>
  `\\n${one.name} ${Math.round(one.startTime)}-${Math.round(one.responseEnd)} ms ${one.responseStatus}`).join("")"""
# a message that was shown is gone after seconds, for which a busy machine may look elsewhere
_KEEP_TOASTS = """() => {
  window.toasts = [];
  const note = (one) => one.classList?.contains("toast") && toasts.push(one.querySelector("span").textContent);
  new MutationObserver((changes) => changes.forEach((one) => one.addedNodes.forEach(note)))
    .observe(document.body, { childList: true, subtree: true });
}"""
_TAKE_TOAST = """(words) => {
  const place = toasts.findIndex((one) => one.includes(words));
  return place < 0 ? "" : toasts.splice(place, 1)[0];
}"""
_TOAST_WITHIN_S = 60.0
_EXCESS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
_SETTLES_S = 20.0
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--lang=en-US",
]
Scheme = Literal["light", "dark"]


@dataclass(frozen=True, slots=True)
class Look:
    """How a page is looked at."""

    width: int
    scheme: Scheme

    def __str__(self) -> str:
        return f"{self.width}-{self.scheme}"


WIDE, NARROW = Look(1440, "light"), Look(390, "dark")
LOOKS = [Look(width, scheme) for width in (1440, 390) for scheme in get_args(Scheme)]


@dataclass
class Visit:
    """A page of the console, and what it did that it must not."""

    page: Page
    url: str
    said: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Open a path of the console and wait for its heading."""
        self.page.goto(f"{self.url}/console{path}")
        self.page.wait_for_selector("h1")
        self.page.evaluate(_KEEP_TOASTS)

    def hear(self, words: str) -> str:
        """Wait until the page has shown a toast with these words, and return its text. Each toast counts once."""
        deadline = time.monotonic() + _TOAST_WITHIN_S
        while not (found := str(self.page.evaluate(_TAKE_TOAST, words))):
            assert time.monotonic() < deadline, f"no toast says {words!r}"
            self.page.wait_for_timeout(50)
        return found

    def look_at(self, look: Look) -> None:
        """Change the width of the screen and the colours that the person prefers."""
        self.page.set_viewport_size({"width": look.width, "height": 900})
        self.page.emulate_media(color_scheme=look.scheme)

    def forgive(self, words: str) -> None:
        """Forget what the browser itself noted about answers or content that were meant to be refused."""
        self.said = [one for one in self.said if words not in one]

    def check(self) -> None:
        """Fail if the page wrote into the log, called another host, or is wider than the screen.

        A 503 is no fault of the page: on a busy machine Redis or the logger may not answer in time, and it asks again.
        """
        self.forgive("503")
        said, self.said = self.said, []
        assert said == [], f"{self.page.url}: {said}"
        assert self.strangers == [], self.strangers
        # a chart takes the new width of the screen a moment after the page
        deadline = time.monotonic() + _SETTLES_S
        while (width := self.page.evaluate(_EXCESS)) > 0 and time.monotonic() < deadline:
            self.page.wait_for_timeout(50)
        assert width <= 0, f"{width} pixels wider than the screen"

    def check_access(self, *, whole: bool = True) -> None:
        """Fail if axe finds anything; if not `whole`, by the rules that depend on sizes and colours."""
        if not self.page.evaluate("typeof axe === 'object'"):
            self.page.evaluate(_AXE)
        found = self.page.evaluate(_RUN_AXE, _RULES if whole else _RULES_OF_LOOKS)
        shown = [_shown(one) for one in found["violations"]]
        assert shown == [], f"{self.page.url}\n" + "\n".join(shown)

    def tab_to(self, name: str, limit: int = 80) -> None:
        """Move the focus with the Tab key to a control with this name."""
        for _ in range(limit):
            self.page.keyboard.press("Tab")
            if self.page.evaluate(_FOCUSED).strip().startswith(name):
                return
        raise AssertionError(f"the Tab key does not reach {name!r}")


_FOCUSED = """() => {
  const one = document.activeElement;
  return one.getAttribute("aria-label") || one.labels?.[0]?.textContent || one.textContent || "";
}"""


def _shown(violation: dict[str, Any]) -> str:
    nodes = [f"{node['html'][:160]} {node.get('failureSummary', '')[:300]}" for node in violation["nodes"][:3]]
    return f"{violation['id']}: {violation['help']}\n" + "\n".join(nodes)


def launch(playwright: Any) -> Browser:
    browser: Browser = playwright.chromium.launch(executable_path=program("chromium"), args=_ARGUMENTS)
    return browser


@contextmanager
def visiting(browser: Browser, url: str, look: Look, key: str = "") -> Iterator[Visit]:
    """Open a page, signed in with this key."""
    context = browser.new_context(
        viewport={"width": look.width, "height": 900},
        color_scheme=look.scheme,
        locale="en-GB",
        timezone_id="UTC",
        reduced_motion="reduce",
    )
    context.set_default_timeout(60_000)
    if key:
        sign_in(context, url, key)
    visit = Visit(context.new_page(), url)
    try:
        visit.page.on("console", lambda message: visit.said.append(_said(message)))
        visit.page.on("pageerror", lambda error: visit.said.append(str(error)))
        visit.page.on("response", lambda answer: _note_failure(visit, answer))
        visit.page.on("requestfinished", lambda request: _watch(visit, request))
        visit.page.on("requestfailed", lambda request: _watch(visit, request))
        yield visit
    except Exception as error:
        # why it failed is mostly on the page: a problem, a toast, figures that do not come
        error.add_note(f"{visit.page.url} {visit.said}\n{visit.page.evaluate(_SHOWN)}")
        raise
    finally:
        context.close()


def sign_in(context: BrowserContext, url: str, key: str) -> None:
    """Sign in; as clients should, ask again after a 503, for at most a minute."""
    deadline = time.monotonic() + 60
    while True:
        answer = context.request.post(
            f"{url}/console/session", data=json.dumps({"apiKey": key}), headers={"Content-Type": "application/json"}
        )
        if answer.status != 503 or time.monotonic() > deadline:
            break
        time.sleep(float(answer.headers["retry-after"]))
    assert answer.ok, answer.text()


def _said(message: ConsoleMessage) -> str:
    return f"{message.type}: {message.text}"


def _note_failure(visit: Visit, answer: Response) -> None:
    # the log has the status only
    if answer.status >= 500:
        visit.said.append(f"{answer.status} {answer.url}")


def _watch(visit: Visit, request: Request) -> None:
    # a policy blocks a request before it leaves
    blocked = "csp" in (request.failure or "").lower()
    if not blocked and not request.url.startswith((visit.url, "data:", "blob:", "about:")):
        visit.strangers.append(request.url)
