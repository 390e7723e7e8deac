"""A blast's progress: following it to its end, its counts in one line, what receipts say, why one was not sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from services.cli.api_client import ApiClient, UnreachableError, within
from shared.jobs import TERMINAL

ENDED = frozenset({"completed", "completed_with_failures", "cancelled", "incomplete"})
_POLL_S = 0.5
_PATIENCE = 60

_console = Console(stderr=True, highlight=False)


async def follow_blast(api: ApiClient, blast_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Wait until a blast has ended and return it; keeps waiting while the gateway restarts."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    misses = 0
    with Progress(*columns, console=_console, disable=quiet) as progress:
        bars: dict[str, TaskID] = {}
        while True:
            try:
                blast: dict[str, Any] = (await api.get(within("/api/v1/blasts", blast_id)))["blast"]
                misses = 0
            except UnreachableError:
                misses += 1
                if misses > _PATIENCE:
                    raise
                await asyncio.sleep(_POLL_S)
                continue
            _advance(progress, bars, blast)
            if blast["state"] in ENDED:
                break
            await asyncio.sleep(_POLL_S)
    if not quiet:
        _console.print(summary(blast))
    return blast


def _advance(progress: Progress, bars: dict[str, TaskID], blast: Mapping[str, Any]) -> None:
    for name, channel in blast["channels"].items():
        if name not in bars:
            bars[name] = progress.add_task(name, total=channel["total"], note="")
        note = channel.get("waitingFor") or ""
        progress.update(bars[name], completed=ended_of(channel["counts"]), total=channel["total"], note=note)


def ended_of(counts: Mapping[str, int]) -> int:
    """Return the number of messages in a terminal status."""
    return sum(counts.get(status, 0) for status in TERMINAL)


def summary(blast: Mapping[str, Any]) -> str:
    """Return one line: the state, and the count of every status that occurs."""
    counts = ", ".join(f"{count} {status}" for status, count in blast["counts"].items() if count)
    return f"{blast['blastId']}: {str(blast['state']).replace('_', ' ')}; {counts or 'nothing yet'}"


def reported(shown: Mapping[str, Any]) -> str:
    """Return what receipts made of the messages of a blast or channel, in one line; "" without receipts."""
    return ", ".join(f"{count} {kind}" for kind, count in (shown.get("delivery") or {}).items() if count)


def reason_of(row: Mapping[str, Any]) -> str:
    """Return why a message was not sent, in the provider's words; only the error's message of a JSON answer."""
    words = str(row["error_message"] or row["status"])
    if not words.startswith("{"):
        return words
    try:
        error = json.loads(words).get("error")
    except ValueError:  # truncated, or not JSON after all
        return words
    return str(error.get("message") or words) if isinstance(error, dict) else words
