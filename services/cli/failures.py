"""`kurir failures`, `retry-matching`: why messages failed, and sending all that match a filter again."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import typer
from rich.text import Text

from services.cli.api_client import DEFAULT_URL, AsJson, Url, call_api, within
from services.cli.terminal import print_json, stdout, table, usage_error

_console = stdout()


def failures(
    context: typer.Context,
    blast: Annotated[str, typer.Argument(help="The id of a blast.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show a blast's failed messages by reason, the most frequent first."""
    answer = call_api(context, url, lambda api: api.get(within("/api/v1/blasts", blast, "failures")))
    if as_json:
        print_json(answer)
        return
    if not answer["failures"]:
        _console.print("no message has failed", markup=False)
        return
    rows = table(("count", "channel", "error class", "error code", "example"), whole=("channel", "error class"))
    for one in answer["failures"]:
        texts = (one["channel"], one["errorClass"], one["errorCode"], one["example"])
        rows.add_row(str(one["count"]), *map(Text, texts))
    _console.print(rows)
    if not answer["complete"]:
        _console.print("these are the latest 100,000 of a channel; there are more", markup=False)
    advice = f"to send one group again: kurir retry {blast} --channel CHANNEL --error-class CLASS --error-code CODE"
    _console.print(advice, markup=False, soft_wrap=True)


def retry_matching(
    context: typer.Context,
    blast: Annotated[str, typer.Option(help="Only messages of this blast.")] = "",
    channel: Annotated[str, typer.Option(help="Only messages of this channel.")] = "",
    recipient: Annotated[str, typer.Option(help="Only to this address, or to addresses that begin with it.")] = "",
    template: Annotated[str, typer.Option(help="Only messages made from this template.")] = "",
    reference: Annotated[str, typer.Option(help="Only messages with this reference.")] = "",
    error_class: Annotated[str, typer.Option(help="Only messages whose last error has this class.")] = "",
    since: Annotated[str, typer.Option("--from", help="Only messages from this time on (RFC 3339).")] = "",
    until: Annotated[str, typer.Option("--to", help="Only messages up to this time (RFC 3339).")] = "",
    include_uncertain: Annotated[bool, typer.Option(help="Include messages that may have been delivered.")] = False,
    confirm: Annotated[int | None, typer.Option(min=0, help="Send them, if at most this many match.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Count the failed messages that match; with --confirm, send them again."""
    given = {
        "blast": blast,
        "channel": channel,
        "recipient": recipient,
        "template": template,
        "reference": reference,
        "error_class": error_class,
        "from": since,
        "to": until,
    }
    wanted = {name: value for name, value in given.items() if value}
    if not wanted:
        raise usage_error(context, "give at least one filter: without any, every failed message would match")
    body = {"confirm": confirm, "includeUncertain": include_uncertain}
    answer = call_api(context, url, lambda api: api.post(f"/api/v1/messages/retry?{urlencode(wanted)}", body))
    if as_json:
        print_json(answer)
        return
    matched = f"{answer['matched']} failed messages match" + ("" if answer["complete"] else ", and there are more")
    if confirm is None:
        _console.print(f"{matched}; to send them again: --confirm {answer['matched']}", markup=False, soft_wrap=True)
        return
    left_out = f", {answer['skipped']} left out" if answer["skipped"] else ""
    _console.print(f"{answer['reopened']} messages are queued again{left_out}", markup=False)
