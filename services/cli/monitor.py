"""`kurir monitor`: an overview of the system, live in the terminal, or once as JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from services.cli.api_client import DEFAULT_URL, ApiClient, AsJson, RefusedError, UnreachableError, Url, call_api
from services.cli.monitor_view import Rates, Sample, view
from services.cli.progress import ENDED
from services.cli.terminal import print_json, stdout

_BLASTS = 50
_FAILURES = 8


def monitor(
    context: typer.Context,
    once: Annotated[bool, typer.Option(help="Show the state once and exit.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two updates.")] = 1.0,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Watch queues, rates and failures, and see why messages wait; Ctrl-C ends it."""
    if once or as_json:
        sample = call_api(context, url, take_sample)
        print_json(sample.as_json()) if as_json else stdout().print(view(sample, Rates(), url))
        return
    try:
        call_api(context, url, lambda api: _watch(api, interval, url))
    except KeyboardInterrupt:
        return


async def take_sample(api: ApiClient) -> Sample:
    """Request everything in parallel; the logger's data is left out while the logger is away."""
    stats, channels, blasts, failures, webhooks = await asyncio.gather(
        api.get("/api/v1/messages/stats"),
        api.get("/api/v1/channels"),
        _unless_away(api.get("/api/v1/blasts", {"limit": _BLASTS})),
        _unless_away(api.get("/api/v1/logs/messages", {"status": "failed", "limit": _FAILURES})),
        _unless_away(api.get("/api/v1/webhooks")),
    )
    open_blasts = [one for one in (blasts or {}).get("blasts", []) if one["state"] not in ENDED]
    details = await asyncio.gather(*(_unless_away(api.get(f"/api/v1/blasts/{one['blastId']}")) for one in open_blasts))
    return Sample(
        at=time.time(),
        stats=stats["stats"],
        channels=channels["channels"],
        blasts=[one["blast"] for one in details if one],
        failures=failures["logs"] if failures else [],
        webhooks=webhooks["webhooks"] if webhooks else [],
        logger_away=failures is None,
    )


async def _unless_away(call: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return await call
    except RefusedError as error:
        if error.status in {404, 503}:
            return None
        raise


async def _watch(api: ApiClient, interval_s: float, url: str) -> None:
    rates = Rates()
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            try:
                sample = await take_sample(api)
            except (UnreachableError, RefusedError) as error:
                live.update(f"{error}; trying again …", refresh=True)
            else:
                rates.observe(sample)
                live.update(view(sample, rates, url), refresh=True)
            await asyncio.sleep(interval_s)
