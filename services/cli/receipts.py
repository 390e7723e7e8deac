"""`kurir receipts`: what waits to be read of the providers' reports, and what could not be read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from services.cli.api_client import EXIT_UNREACHABLE, AsJson, DataDir, Port
from services.cli.plan import UpOptions
from services.cli.queue_url import explained, find_queue
from services.cli.terminal import complain, print_json, stdout, table
from shared.clock import rfc3339
from shared.errors import KurirError, SettingsError
from shared.foreign_text import legible
from shared.lifecycle import EXIT_SETTINGS
from shared.queue.connection import check_server, connect
from shared.queue.receipts import ReceiptCounts, ReceiptInbox, SetAside

_console = stdout()
_LONGEST_BODY = 64 * 1024


def receipts(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="How many entries to show, the newest first.")] = 20,
    read_again: Annotated[
        bool, typer.Option("--read-again", help="Read all entries again that were set aside, after an upgrade.")
    ] = False,
    port: Port = 3000,
    redis_url: Annotated[str | None, typer.Option(help="The Redis to look into; KURIR_REDIS_URL by default.")] = None,
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Show the receipts that wait and those that could not be read; --json prints their bodies too."""
    try:
        url = find_queue(UpOptions(port=port, data_dir=data_dir, redis_url=redis_url), context.obj)
        seen = asyncio.run(look(url, limit, read_again=read_again))
    except SettingsError as error:
        complain("receipts", error.problems)
        raise typer.Exit(EXIT_SETTINGS) from None
    except KurirError as error:
        complain("receipts", explained(error))
        raise typer.Exit(EXIT_UNREACHABLE) from None
    if as_json:
        _print_json(seen)
    else:
        _print(seen)


@dataclass(frozen=True, slots=True)
class Seen:
    """The counts of the stream, the newest entries that were set aside, and how many of these are read again."""

    counts: ReceiptCounts
    aside: list[SetAside]
    again: int = 0


async def look(url: str, limit: int, *, read_again: bool = False) -> Seen:
    """Look into the stream of receipts; raises QueueUnavailableError if Redis is away."""
    redis = connect(url)
    try:
        await check_server(redis)
        inbox = ReceiptInbox(redis)
        again = await inbox.read_again() if read_again else 0
        return Seen(await inbox.counts(), await inbox.list_set_aside(limit) if limit else [], again)
    finally:
        await redis.aclose()


def _print_json(seen: Seen) -> None:
    entries = [
        {
            "entry": one.entry_id,
            "provider": one.source,
            "takenAt": rfc3339(one.taken_at_ms),
            "reason": one.why,
            "bytes": len(one.body),
            "body": legible(one.body, _LONGEST_BODY),
        }
        for one in seen.aside
    ]
    counts = {"waiting": seen.counts.waiting, "oldestAgeSeconds": round(seen.counts.oldest_age_s, 3)}
    print_json(counts | {"setAside": seen.counts.set_aside, "readAgain": seen.again, "entries": entries})


def _print(seen: Seen) -> None:
    counts = seen.counts
    oldest = f", the oldest for {counts.oldest_age_s:.0f} s" if counts.waiting else ""
    _console.print(f"{counts.waiting} wait to be read{oldest}; {counts.set_aside} could not be read and are kept.")
    if seen.again:
        _console.print(f"{seen.again} that could not be read are read again.")
    if not seen.aside:
        return
    shown = table(("taken at", "provider", "reason", "bytes", "entry"), whole=("taken at", "entry"))
    for one in seen.aside:
        shown.add_row(rfc3339(one.taken_at_ms), escape(one.source), escape(one.why), str(len(one.body)), one.entry_id)
    _console.print(shown)
