"""`kurir status`, `kurir message`, `kurir channels`: the state of blasts, messages and channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from services.cli.api_client import DEFAULT_URL, Answer, AsJson, Url, call_api, within
from services.cli.progress import ENDED, ended_of, follow_blast, reported, summary
from services.cli.terminal import print_json, stdout, table
from shared.lifecycle import EXIT_FAILED

_console = stdout()
_SHOWN_BLASTS = 20


def status(
    context: typer.Context,
    blast: Annotated[str, typer.Argument(help="A blast's id; without one, the queues and the latest blasts.")] = "",
    watch: Annotated[bool, typer.Option(help="Follow the blast to its end.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show one blast, or the queues and the latest blasts."""
    if not blast:
        _show_all(context, url, as_json=as_json)
        return
    if watch:
        shown = call_api(context, url, lambda api: follow_blast(api, blast, quiet=as_json))
    else:
        shown = call_api(context, url, lambda api: api.get(within("/api/v1/blasts", blast)))["blast"]
    if as_json:
        print_json(shown)
    elif not watch:
        _print_blast(shown)
    if watch and shown["state"] != "completed":
        raise typer.Exit(EXIT_FAILED)


def _show_all(context: typer.Context, url: str, *, as_json: bool) -> None:
    stats = call_api(context, url, lambda api: api.get("/api/v1/messages/stats"))["stats"]
    blasts = call_api(context, url, lambda api: api.get("/api/v1/blasts", {"limit": _SHOWN_BLASTS}))["blasts"]
    if as_json:
        print_json({"stats": stats, "blasts": blasts})
        return
    _console.print(stats_table(stats))
    columns = ("blast", "state", "template", "messages", "ended", "sent", "failed", "receipts", "created")
    rows = table(columns, whole=("blast", "state"), title="Latest blasts")
    for one in blasts:
        counts = one["counts"]
        row = (ended_of(counts), counts.get("sent", 0), counts.get("failed", 0))
        rows.add_row(
            one["blastId"],
            one["state"],
            one["templateId"],
            str(one["totalMessages"]),
            *map(str, row),
            reported(one),
            str(one.get("createdAt") or ""),
        )
    _console.print(rows)


def stats_table(stats: Mapping[str, Any]) -> Table:
    """Return a table of the queues, with a row for each channel."""
    names = ("waiting", "active", "delayed", "scheduled", "paused", "completed", "failed")
    rows = table(("channel", *names), whole=("channel",), title="Queues")
    for name, channel in stats["channels"].items():
        rows.add_row(name, *(str(channel[one]) for one in names))
    return rows


def _print_blast(blast: Mapping[str, Any]) -> None:
    _console.print(summary(blast), markup=False)
    columns = ("channel", "total", "ended", "sent", "failed", "retrying", "receipts", "waits for")
    rows = table(columns, whole=("waits for",))
    for name, channel in blast["channels"].items():
        counts = channel["counts"]
        numbers = (channel["total"], ended_of(counts), *(counts.get(one, 0) for one in ("sent", "failed", "retrying")))
        rows.add_row(name, *map(str, numbers), reported(channel), str(channel.get("waitingFor") or ""))
    _console.print(rows)
    if blast["state"] not in ENDED:
        rate, eta = blast.get("rate"), blast.get("etaSeconds")
        _console.print(f"{blast['progress']:.0%} done, {rate or 0:g} a second" + (f", {eta} s to go" if eta else ""))


def message(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="A job's id.")],
    content: Annotated[bool, typer.Option("--content", help="What it says, while that is kept.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the whole history of one message, or its content."""
    path = within("/api/v1/messages", job, *(["content"] if content else []))
    answer = call_api(context, url, lambda api: api.get(path))
    if as_json:
        print_json(answer)
    elif content:
        _print_fields(answer.get("content") or {"reason": answer["reason"]})
    else:
        _print_fields(answer["message"])


def _print_fields(fields: Mapping[str, Any], indent: str = "") -> None:
    for name, value in fields.items():
        if isinstance(value, list):
            for number, one in enumerate(value, start=1):
                _console.print(f"{indent}{name} {number}", markup=False)
                _print_fields(one if isinstance(one, dict) else {"": one}, indent + "  ")
        elif isinstance(value, dict) and value:
            shown = ", ".join(f"{key} {one}" for key, one in value.items())
            _console.print(f"{indent}{name}: {shown}", markup=False, soft_wrap=True)
        elif value not in (None, "", {}):
            _console.print(f"{indent}{name}: {value}", markup=False, soft_wrap=True)


def channels(context: typer.Context, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show the channels with their limits, senders and pauses."""
    answer = call_api(context, url, lambda api: api.get("/api/v1/channels"))
    print_json(answer) if as_json else _console.print(_channels_table(answer))


def _rate_of(channel: Mapping[str, Any]) -> str:
    """Return the limit in force, marked if it was set at run time."""
    if channel["rate"] is None:
        return "unknown"
    return f"{channel['rate']} (set at run time)" if channel["rateSource"] == "api" else str(channel["rate"])


def _channels_table(answer: Answer) -> Table:
    rows = table(("channel", "state", "rate", "senders", "waiting", "active", "delayed"), whole=("channel",))
    for one in answer["channels"]:
        state = f"paused: {one['paused']}" if one["paused"] else "running" if one["configured"] else "not configured"
        senders = ", ".join("ok" if sender["available"] else sender["reason"] for sender in one["senders"]) or "none"
        stats = one["stats"]
        numbers = (stats["waiting"], stats["active"], stats["delayed"])
        rows.add_row(one["name"], Text(state), _rate_of(one), Text(senders), *map(str, numbers))
    return rows
