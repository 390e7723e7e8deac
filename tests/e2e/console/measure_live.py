"""What live updates cost while messages flow: the processor time of ingest, and the frames of the page.

    python -m tests.e2e.console.measure_live [most messages a second]

A blast is accepted whole and flows to smtp-sink, as fast as the sender can or at a limit. Then the same seconds pass
twice: without a page, and with the overview open, which reads the stream of events. What ingest uses more in the second
part is what live updates cost; the rest (its housekeeping, the senders' questions) it uses anyway. In the page,
requestAnimationFrame counts frames, the browser itself counts tasks above 50 ms and the time that the main thread was
busy. The sender and the browser share the machine's cores, so the busy time says more about the page than missed frames
do.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks.sink import Sink
from tests.e2e.console.browser import WIDE, launch, visiting
from tests.e2e.console.conftest import ADMIN, ADMIN_KEY, ENV
from tests.e2e.system import System

GOAL_SHARE, GOAL_FRAMES = 0.05, 58.0
_SPAN_S, _WARM_UP_S = 20.0, 5.0
_MOST = 3000
# counts frames, and tasks that hold up a frame for longer than 50 ms
_COUNT = """async (ms) => {
  let frames = 0, longest = 0, before = performance.now(), slow = 0;
  new PerformanceObserver((list) => { slow += list.getEntries().length; }).observe({ type: "longtask" });
  const until = before + ms, began = before;
  while (before < until) {
    const now = await new Promise(requestAnimationFrame);
    longest = Math.max(longest, now - before);
    before = now;
    frames += 1;
  }
  return { perSecond: frames / ((before - began) / 1000), longest, slow };
}"""


@dataclass(frozen=True, slots=True)
class Span:
    """Some seconds: messages sent in each, and the share of a core that ingest used."""

    rate: float
    ingest: float


def main(arguments: Sequence[str]) -> int:
    """Measure; return 1 if live updates cost more, or the page draws less, than they may."""
    with tempfile.TemporaryDirectory() as folder:
        sink = Sink(Path(folder))
        try:
            # the sandbox could not take that many
            mail = {
                "KURIR_SMTP_URL": f"smtp://127.0.0.1:{sink.port}",
                "KURIR_EMAIL_FROM": "Shop <shop@example.com>",
                "KURIR_LOG_CONSOLE": "off",
            }
            system = System(Path(folder), ENV | mail)
            return _measure(system, int(arguments[0]) if arguments else None)
        finally:
            sink.stop()


def _measure(system: System, wanted: int | None) -> int:
    system.up("--no-sandbox")
    try:
        blast_id = _flow(system, wanted)
        time.sleep(_WARM_UP_S)
        alone, _ = _span(system, blast_id)
        with sync_playwright() as playwright:
            browser = launch(playwright)
            with visiting(browser, f"http://127.0.0.1:{system.port}", WIDE, ADMIN_KEY) as visit:
                visit.open("/")
                visit.page.wait_for_selector("text=Live")
                time.sleep(_WARM_UP_S)
                watched, frames = _span(system, blast_id, visit.page)
            browser.close()
    finally:
        system.interrupt()
        system.kill()
    cost = watched.ingest - alone.ingest
    write = sys.stdout.write
    write(f"without a page  {alone.rate:6.0f} messages/s, ingest {alone.ingest:.1%} of a core\n")
    write(f"with a page     {watched.rate:6.0f} messages/s, ingest {watched.ingest:.1%} of a core\n")
    write(f"live updates    {cost:.1%} of a core (at most {GOAL_SHARE:.0%})\n")
    write(
        f"page            {frames['perSecond']:.1f} frames/s, longest {frames['longest']:.0f} ms, "
        f"{frames['slow']} tasks above 50 ms, main thread busy {frames['busy']:.1%}\n"
    )
    return int(cost > GOAL_SHARE or frames["perSecond"] < GOAL_FRAMES)


def _flow(system: System, most: int | None) -> str:
    """Accept a blast that flows for as long as the measurement takes; return its id once it is accepted."""
    rate = "off" if most is None else f"{most}/1s"
    _call(system, "PATCH", "/api/channels/email", json.dumps({"rate": rate}).encode(), "application/json")
    lines = io.StringIO()
    lines.write("name,email,start_url\n")
    for number in range(int((most or _MOST) * (3 * _SPAN_S + 4 * _WARM_UP_S))):
        lines.write(f"Person {number},person{number}@host{number % 500}.example.com,https://example.com/{number}\n")
    query = "templateId=welcome&channels=email&priority=1&reference=flowing"
    answer = _call(system, "POST", f"/api/messages/blast?{query}", lines.getvalue().encode(), "text/csv")
    return str(answer["blastId"])


def _call(system: System, method: str, path: str, body: bytes, kind: str) -> dict[str, Any]:
    headers = ADMIN | {"Content-Type": kind}
    request = urllib.request.Request(f"http://127.0.0.1:{system.port}{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=600) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _span(system: System, blast_id: str, page: Page | None = None) -> tuple[Span, dict[str, float]]:
    """Let the span pass; return what it cost, and what the page drew."""
    ingest = system.child("ingest")
    assert ingest is not None
    sent, used, began = _sent(system, blast_id), _used(ingest), time.monotonic()
    frames = {} if page is None else _frames(page)
    if page is None:
        time.sleep(_SPAN_S)
    seconds = time.monotonic() - began
    used_s = _used(ingest) - used
    return Span((_sent(system, blast_id) - sent) / seconds, used_s / seconds), frames


def _frames(page: Page) -> dict[str, float]:
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    before, began = _busy(session), time.monotonic()
    found: dict[str, float] = page.evaluate(_COUNT, _SPAN_S * 1000)
    return found | {"busy": (_busy(session) - before) / (time.monotonic() - began)}


def _busy(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _sent(system: System, blast_id: str) -> int:
    return int(system.get(f"/api/blasts/{blast_id}", ADMIN)["blast"]["counts"]["sent"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
