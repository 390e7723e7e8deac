"""`kurir webhooks`: the endpoints to which Kurir sends events, and what was delivered to them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from services.cli.api_client import DEFAULT_URL, Answer, AsJson, Url, call_api, within
from services.cli.terminal import existing_file, print_json, stdout, table, usage_error

PATH = "/api/v1/webhooks"
_console = stdout()

app = typer.Typer(
    help="Webhooks: list, add, show, change, rotate, test, replay, deliveries, enable, disable, remove.",
    no_args_is_help=False,
)

Webhook = Annotated[str, typer.Argument(help="A webhook's id.")]
Target = Annotated[str | None, typer.Option("--target", help="The URL that events are sent to.")]
Event = Annotated[list[str] | None, typer.Option("--event", "-e", help='A type, such as message.sent, or "*"; repeat.')]
Channel = Annotated[list[str] | None, typer.Option("--channel", "-c", help="Only events of this channel; repeat.")]
Reference = Annotated[str | None, typer.Option(help="Only events of messages and blasts with this reference.")]
Description = Annotated[str | None, typer.Option(help="For people.")]
BatchMax = Annotated[
    int | None, typer.Option("--batch", min=0, max=500, help="Up to this many events in a request; 0 sends each alone.")
]
WithinMs = Annotated[
    int | None, typer.Option("--within-ms", min=0, max=60_000, help="How long a batch waits for more events.")
]
SecretFile = Annotated[
    Path | None,
    typer.Option("--secret-file", help='A file with a secret of your own, or "-" for stdin; Kurir makes one without.'),
]


@app.callback(invoke_without_command=True)
def webhooks(context: typer.Context, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the webhooks, or use the commands below."""
    if context.invoked_subcommand is None:
        _show_all(context, url, as_json=as_json)


@app.command("list")
def list_all(context: typer.Context, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List all webhooks."""
    _show_all(context, url, as_json=as_json)


@app.command()
def show(context: typer.Context, webhook: Webhook, url: Url = DEFAULT_URL) -> None:
    """Show one webhook."""
    print_json(call_api(context, url, lambda api: api.get(within(PATH, webhook)))["webhook"])


@app.command()
def add(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="The URL that events are sent to.")],
    event: Event = None,
    channel: Channel = None,
    reference: Reference = None,
    description: Description = None,
    batch: BatchMax = None,
    within_ms: WithinMs = None,
    secret_file: SecretFile = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Add a webhook, for every event unless --event names some, and print its secret, which is not shown again."""
    body = _fields(target, event or ["*"], channel, reference, description) | _batch(context, batch, within_ms)
    body |= _own_secret(context, secret_file)
    answer = call_api(context, url, lambda api: api.post(PATH, body))
    if as_json:
        print_json(answer)
    else:
        _console.print(f"{answer['webhook']['id']} is added. Its secret, shown only now:", markup=False)
        _console.print(answer["secret"], markup=False, soft_wrap=True)


@app.command()
def change(
    context: typer.Context,
    webhook: Webhook,
    target: Target = None,
    event: Event = None,
    channel: Channel = None,
    reference: Reference = None,
    description: Description = None,
    batch: BatchMax = None,
    within_ms: WithinMs = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Change what is given, and nothing else."""
    body = _fields(target, event, channel, reference, description) | _batch(context, batch, within_ms)
    if not body:
        raise usage_error(context, "give what to change, such as --event or --target")
    _patch(context, url, webhook, body, "is changed", as_json=as_json)


@app.command()
def enable(context: typer.Context, webhook: Webhook, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Enable a webhook; it gets what happened while it was disabled."""
    _patch(context, url, webhook, {"enabled": True}, "is enabled", as_json=as_json)


@app.command()
def disable(context: typer.Context, webhook: Webhook, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Disable a webhook; its events are kept until it is enabled."""
    _patch(context, url, webhook, {"enabled": False}, "is disabled", as_json=as_json)


@app.command()
def remove(context: typer.Context, webhook: Webhook, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Remove a webhook, with the events that it was not sent."""
    _report(call_api(context, url, lambda api: api.call("DELETE", within(PATH, webhook))), "", as_json=as_json)


@app.command()
def rotate(
    context: typer.Context,
    webhook: Webhook,
    secret_file: SecretFile = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Replace a webhook's secret and print the new one; for 24 hours, requests are signed with both."""
    body = _own_secret(context, secret_file)
    answer = call_api(context, url, lambda api: api.post(within(PATH, webhook, "rotate"), body))
    if as_json:
        print_json(answer)
    else:
        _console.print(f"The old secret signs as well until {answer['oldSecretEndsAt']}. The new one:", markup=False)
        _console.print(answer["secret"], markup=False, soft_wrap=True)


@app.command("test")
def send_test(context: typer.Context, webhook: Webhook, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Send a test event."""
    answer = call_api(context, url, lambda api: api.post(within(PATH, webhook, "test")))
    line = f"{answer['deliveryId']} is on its way; see kurir webhooks deliveries {webhook}"
    _report(answer, line, as_json=as_json)


@app.command()
def replay(
    context: typer.Context,
    webhook: Webhook,
    since: Annotated[str, typer.Option("--from", help="Events recorded from this time on (RFC 3339).")],
    until: Annotated[str, typer.Option("--to", help="Before this time (RFC 3339); by default now.")] = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send the events of a time range again, each with its own id."""
    body = {"from": since} | ({"to": until} if until else {})
    answer = call_api(context, url, lambda api: api.post(within(PATH, webhook, "replay"), body))
    line = f"{answer['events']} events are sent again, unless the webhook's filters leave some out"
    _report(answer, line, as_json=as_json)


@app.command()
def deliveries(
    context: typer.Context,
    webhook: Webhook,
    status: Annotated[str, typer.Option(help="waiting, retrying, delivered or failed.")] = "",
    since: Annotated[str, typer.Option("--from", help="Only deliveries created from this time on (RFC 3339).")] = "",
    until: Annotated[str, typer.Option("--to", help="Only deliveries created up to this time (RFC 3339).")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 50,
    cursor: Annotated[str, typer.Option(help="Where the previous page ended.")] = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the deliveries to a webhook, the latest first."""
    query = {"status": status, "from": since, "to": until, "limit": limit, "cursor": cursor}
    answer = call_api(context, url, lambda api: api.get(within(PATH, webhook, "deliveries"), query))
    if as_json:
        print_json(answer)
        return
    shown = table(("created", "type", "events", "status", "attempts", "answer", "next attempt", "id"), whole=("id",))
    for one in answer["deliveries"]:
        said = " ".join(str(part) for part in (one["responseStatus"], one["error"]) if part)
        counts = (str(one["events"]), one["status"], str(one["attempts"]))
        shown.add_row(one["createdAt"], one["type"], *counts, Text(said), one["nextAttemptAt"] or "", one["id"])
    _console.print(shown)
    if answer["nextCursor"]:
        again = f"kurir webhooks deliveries {webhook} --cursor {answer['nextCursor']}"
        _console.print(f"next page: {again}", markup=False, soft_wrap=True)


def _show_all(context: typer.Context, url: str, *, as_json: bool) -> None:
    answer = call_api(context, url, lambda api: api.get(PATH))
    if as_json:
        print_json(answer)
        return
    if not answer["webhooks"]:
        _console.print("no webhooks; add one with kurir webhooks add URL", markup=False)
        return
    shown = table(("id", "url", "events", "state", "waiting", "last delivered"), whole=("id",))
    for one in answer["webhooks"]:
        texts = (one["url"], ", ".join(one["events"]), _state(one))
        shown.add_row(one["id"], *map(Text, texts), str(one["waiting"]), one["lastDeliveredAt"] or "")
    _console.print(shown)


def _state(webhook: Mapping[str, Any]) -> str:
    if not webhook["enabled"]:
        return f"disabled: {webhook['disabledReason']}" if webhook["disabledReason"] else "disabled"
    return f"failing since {webhook['failingSince']}" if webhook["failingSince"] else "enabled"


def _fields(
    target: str | None,
    event: list[str] | None,
    channel: list[str] | None,
    reference: str | None,
    description: str | None,
) -> dict[str, Any]:
    """Return the fields that were given; `--channel ""` removes the filter."""
    channels = None if channel is None else [one for one in channel if one]
    fields = {
        "url": target,
        "events": event,
        "channels": channels,
        "reference": reference,
        "description": description,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _batch(context: typer.Context, most: int | None, within_ms: int | None) -> dict[str, Any]:
    if most is None and within_ms is not None:
        raise usage_error(context, "--within-ms needs --batch")
    if most is None:
        return {}
    return {"batch": {"max": most} | ({} if within_ms is None else {"withinMs": within_ms}) if most else None}


def _own_secret(context: typer.Context, path: Path | None) -> dict[str, str]:
    """Return the secret of a file; it is no option, since other users of the machine can read a command line."""
    if path is None:
        return {}
    text = sys.stdin.read() if str(path) == "-" else existing_file(context, path).read_text("utf-8")
    return {"secret": text.strip()}


def _patch(
    context: typer.Context, url: str, webhook: str, body: Mapping[str, Any], what: str, *, as_json: bool
) -> None:
    answer = call_api(context, url, lambda api: api.call("PATCH", within(PATH, webhook), json=body))
    _report(answer, f"{webhook} {what}", as_json=as_json)


def _report(answer: Answer, line: str, *, as_json: bool) -> None:
    print_json(answer) if as_json else _console.print(line or answer["message"], markup=False, soft_wrap=True)
