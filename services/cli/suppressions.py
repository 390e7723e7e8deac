"""`kurir suppressions`: addresses that get no more messages."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from services.cli.api_client import DEFAULT_URL, AsJson, Url, call_api, print_json
from services.cli.terminal import stdout

_console = stdout()


def suppressions(
    context: typer.Context,
    add: Annotated[str, typer.Option(help="Suppress this address.")] = "",
    lift: Annotated[str, typer.Option(help="Lift the suppression with this id.")] = "",
    channel: Annotated[str, typer.Option("--channel", "-c")] = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "manual",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    cursor: Annotated[str, typer.Option(help="Where the page before ended.")] = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List suppressed addresses, add one, or lift one."""
    if add:
        body = {"channel": channel or "email", "address": add, "reason": reason}
        print_json(call_api(context, url, lambda api: api.post("/api/v1/suppressions", body)))
        return
    if lift:
        print_json(call_api(context, url, lambda api: api.call("DELETE", f"/api/v1/suppressions/{lift}")))
        return
    query = {"channel": channel, "limit": limit, "cursor": cursor}
    answer = call_api(context, url, lambda api: api.get("/api/v1/suppressions", query))
    if as_json:
        print_json(answer)
        return
    table = Table("channel", "address", "reason", "id")
    for one in answer["suppressions"]:
        table.add_row(one["channel"], Text(one["address"]), Text(one["reason"]), one["id"])
    _console.print(table)
    if answer["nextCursor"]:
        _console.print(f"more: --cursor {answer['nextCursor']}", markup=False)
