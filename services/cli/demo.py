"""`kurir demo`: one run of the whole system, on one machine and with sandboxed providers.

Starts everything, posts the example recipients through both channels, shows the progress, waits for what the providers
report later, reads the result from the API, checks that the numbers add up, and stops everything.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.cli.api_client import ApiClient, RefusedError, UnreachableError
from services.cli.demo_report import ChannelReport, Expected, LiveCounts, count_rows, find_mistakes, read_expected
from services.cli.embedded import find_server
from services.cli.plan import Plan, UpOptions, find_shipped, make_plan
from services.cli.up import health_problem, running_system
from shared.errors import KurirError
from shared.jobs import TERMINAL
from shared.lifecycle import Stop

_POLL_S = 0.1
_DONE_TIMEOUT_S = 150.0
_LOG_TIMEOUT_S = 30.0
_RECEIPTS_TIMEOUT_S = 60.0
_HEALTH_TIMEOUT_S = 60.0
_CALL_PATIENCE_S = 60.0
_MOST = 0.95
_TEMPLATE_ID = "invoice_reminder"
_PAGE = 1000
_SETTINGS = {"KURIR_EMAIL_RATE": "off", "KURIR_WHATSAPP_RATE": "off", "KURIR_LOG_CONSOLE": "off"}
_STATUSES = ("sent", "failed", "suppressed")
_DELIVERIES = ("delivered", "read", "bounced", "undelivered", "complained")

Counts = dict[str, LiveCounts]


class DemoError(KurirError):
    """The demo cannot continue; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of the demo: the API's counts, the log's rows, and the duration of sending."""

    expected: Mapping[str, Expected]
    live: Counts
    logged: Mapping[str, ChannelReport]
    rates: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class Screen:
    """Where the demo writes, and the Unix time from which it counts until the console answers."""

    console: Console
    began_at: float


async def run_demo(options: UpOptions, env: Mapping[str, str], stop: Stop, screen: Screen) -> bool:
    """Run the demo and return whether the numbers add up; raises SettingsError or DemoError where it cannot run."""
    console = screen.console
    server = None if options.redis_url else find_server()
    plan = make_plan(options, {**env, **_SETTINGS}, server)
    recipients = find_shipped("examples/recipients.csv")
    services = len(plan.health_urls.keys() - {"sandbox"})
    started = f"{server}, {services} services" if server else f"{services} services"
    console.print(f"Starting {started} and the sandbox; data in {plan.data_dir}")

    def announce(line: str) -> None:
        console.print(f"[yellow]{line}[/yellow]")

    async with running_system(plan, stop, announce) as supervisor:
        work = asyncio.create_task(_send_and_follow(plan, recipients, screen))
        stopped = asyncio.create_task(stop.wait())
        ends: list[asyncio.Future[Any]] = [work, stopped, supervisor.failed]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                console.print("Stopping. Nothing is lost: `kurir up` continues where this run ends.")
                return False
            outcome = work.result()
        finally:
            for task in (work, stopped):
                task.cancel()
                with suppress(asyncio.CancelledError, DemoError):
                    await task
    mistakes = find_mistakes(outcome.expected, outcome.live, outcome.logged)
    _print_outcome(outcome, console)
    for mistake in mistakes:
        console.print(f"[red]does not add up:[/red] {mistake}")
    if not mistakes:
        _print_next_steps(plan, console)
    return not mistakes


async def _send_and_follow(plan: Plan, recipients: Path, screen: Screen) -> Outcome:
    console = screen.console
    expected = read_expected(recipients)
    # one connection per call: after a restart of a service, a pooled connection would be dead
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        await _until_console_answers(plan, http, screen)
        await _until_healthy(plan, http)
        api = ApiClient(http, plan.url, patience_s=_CALL_PATIENCE_S)
        began = time.monotonic()
        try:
            blast_id = await _post_csv(api, await asyncio.to_thread(recipients.read_bytes))
            console.print(f"POST {recipients.name}: blast {blast_id} accepted in {time.monotonic() - began:.2f} s")
            live, rates = await _follow(api, blast_id, expected, console)
            seconds = time.monotonic() - began
            logged = await _until_logged(api, blast_id, live)
            live, logged = await _until_reported(api, blast_id, logged, console)
        except (RefusedError, UnreachableError) as error:
            raise DemoError(" ".join([str(error), *getattr(error, "problems", [])])) from error
    return Outcome(expected, live, logged, rates, seconds)


async def _post_csv(api: ApiClient, content: bytes) -> str:
    """Post the recipients as one blast through both channels and return its id.

    The idempotency key makes it safe to post again if the answer was lost.
    """
    headers = {"Content-Type": "text/csv", "Idempotency-Key": secrets.token_hex(16)}
    query = {"templateId": _TEMPLATE_ID, "channels": "email,whatsapp"}
    answer = await api.call("POST", "/api/messages/blast", params=query, headers=headers, data=content)
    return str(answer["blastId"])


async def _rows(api: ApiClient, blast_id: str) -> list[dict[str, Any]]:
    """Return every row of the message log that belongs to the blast."""
    rows: list[dict[str, Any]] = []
    query: dict[str, object] = {"blast": blast_id, "limit": _PAGE}
    while True:
        answer = await api.get("/api/logs/messages", query)
        rows += answer["logs"]
        if not answer["nextCursor"]:
            return rows
        query["cursor"] = answer["nextCursor"]


async def _until_console_answers(plan: Plan, http: aiohttp.ClientSession, screen: Screen) -> None:
    """Wait until the console answers, and report how long that took."""
    url, deadline = f"{plan.url}/console/", time.monotonic() + _HEALTH_TIMEOUT_S
    while (problem := await health_problem(http, url)) is not None:
        if time.monotonic() > deadline:
            raise DemoError(f"the console does not answer: {problem}")
        await asyncio.sleep(_POLL_S)
    screen.console.print(f"The console answers after {time.time() - screen.began_at:.0f} s: {url}", soft_wrap=True)


async def _until_healthy(plan: Plan, http: aiohttp.ClientSession) -> None:
    """Wait until every service is healthy, so that the measured rate does not include the startup."""
    deadline = time.monotonic() + _HEALTH_TIMEOUT_S
    for name, url in plan.health_urls.items():
        while (problem := await health_problem(http, url)) is not None:
            if time.monotonic() > deadline:
                raise DemoError(f"{name} is not healthy: {problem}")
            await asyncio.sleep(_POLL_S)


async def _follow(
    api: ApiClient, blast_id: str, expected: Mapping[str, Expected], console: Console
) -> tuple[Counts, dict[str, float]]:
    """Show the blast's progress until its end; return the counts and each channel's messages per second.

    The rate is that of the first 95 %, since the rest waits for retries of simulated failures.
    """
    began = time.monotonic()
    rates: dict[str, float] = {}
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = {name: progress.add_task(name, total=wanted.total) for name, wanted in expected.items()}
        while True:
            live = await _live(api, blast_id)
            spent = time.monotonic() - began
            done = _advance(progress, bars, live)
            for name, wanted in expected.items():
                if name not in rates and done[name] >= wanted.total * _MOST:
                    rates[name] = done[name] / spent
            if all(done[name] >= wanted.total for name, wanted in expected.items()):
                return live, rates
            if spent > _DONE_TIMEOUT_S:
                raise DemoError(f"the blast has not finished within {_DONE_TIMEOUT_S:g} s: {live}")
            await asyncio.sleep(_POLL_S)


async def _live(api: ApiClient, blast_id: str) -> Counts:
    return counts_of((await api.get(f"/api/blasts/{blast_id}"))["blast"])


def counts_of(blast: Mapping[str, Any]) -> Counts:
    """Return the counts of an API blast by channel; it has no delivery while the log cannot be read."""
    return {
        name: LiveCounts(dict(channel["counts"]), dict(channel["delivery"] or {}))
        for name, channel in blast["channels"].items()
    }


def _advance(progress: Progress, bars: Mapping[str, TaskID], live: Counts) -> dict[str, int]:
    done = {name: _ended(live[name]) if name in live else 0 for name in bars}
    for name, bar in bars.items():
        progress.update(bar, completed=done[name])
    return done


def _ended(counts: LiveCounts) -> int:
    return sum(counts.statuses.get(status, 0) for status in TERMINAL)


async def _until_logged(api: ApiClient, blast_id: str, live: Counts) -> dict[str, ChannelReport]:
    """Read the log until it agrees with the queue, which it shortly follows, or until a timeout."""
    deadline = time.monotonic() + _LOG_TIMEOUT_S
    while True:
        logged = count_rows(await _rows(api, blast_id))
        same = all(
            logged[name].statuses == {status: n for status, n in counts.statuses.items() if n}
            for name, counts in live.items()
        )
        if same or time.monotonic() > deadline:
            return logged
        await asyncio.sleep(_POLL_S)


async def _until_reported(
    api: ApiClient, blast_id: str, logged: dict[str, ChannelReport], console: Console
) -> tuple[Counts, dict[str, ChannelReport]]:
    """Wait until the blast counts every receipt that is due, or until a timeout; return its counts and the log's."""
    console.print("Sent. Waiting for receipts: deliveries, bounces and complaints come later …")
    deadline = time.monotonic() + _RECEIPTS_TIMEOUT_S
    while True:
        live = await _live(api, blast_id)
        complete = all(live[name].delivered == report.due for name, report in logged.items() if name in live)
        if complete or time.monotonic() > deadline:
            return live, count_rows(await _rows(api, blast_id))
        await asyncio.sleep(_POLL_S)


def _print_outcome(outcome: Outcome, console: Console) -> None:
    table = Table(title=f"1 blast, {len(outcome.expected)} channels, {outcome.seconds:.1f} s")
    table.add_column("messages")
    for name in outcome.logged:
        table.add_column(name, justify="right")
    reports = outcome.logged.values()
    table.add_row("in the log", *(str(report.total) for report in reports))
    for status in _STATUSES:
        table.add_row(status, *(str(report.statuses[status]) for report in reports))
    table.add_row("retried", *(str(report.retried) for report in reports))
    table.add_row("a second", *(f"{outcome.rates.get(name, 0):.0f}" for name in outcome.logged), end_section=True)
    for kind in _DELIVERIES:
        table.add_row(kind, *(str(report.delivery[kind]) for report in reports))
    console.print(table)
    for name, report in outcome.logged.items():
        for reason, count in report.reasons.most_common():
            console.print(f"  {name}: {count} × {reason}", markup=False, highlight=False)


def up_command(options: UpOptions) -> str:
    """Return the command that starts this system again, as it can be typed here: `kurir` may not be on PATH."""
    usual = UpOptions()
    words = ["kurir" if shutil.which("kurir") else sys.argv[0], "up"]
    words += ["--port", str(options.port)] if options.port != usual.port else []
    words += ["--data-dir", str(options.data_dir)] if options.data_dir != usual.data_dir else []
    return shlex.join(words)


def _print_next_steps(plan: Plan, console: Console) -> None:
    console.print(
        f"The numbers add up. Next: [bold]{escape(up_command(plan.options))}[/bold], then open {plan.url}/console/\n"
        f"  failed messages: curl '{plan.url}/api/logs/messages?status=failed'\n"
        f"  what came back:  curl '{plan.url}/api/logs/messages?delivery=bounced,complained,undelivered'",
        soft_wrap=True,
    )
    if plan.log_dir is not None:
        console.print(f"  every attempt: {plan.log_dir / 'combined.log'}", soft_wrap=True)
