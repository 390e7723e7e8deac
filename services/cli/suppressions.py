"""`kurir suppressions`: addresses that get no more messages, or no more marketing."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from services.cli.api_client import DEFAULT_URL, Answer, ApiClient, AsJson, Url, call_api, given, within
from services.cli.terminal import existing_file, print_json, stdout, table, usage_error

PATH = "/api/v1/suppressions"
_CHUNK = 1024 * 1024
_console = stdout()

app = typer.Typer(help="Suppressed addresses: list, show, add, lift, import, export.", no_args_is_help=False)


class Form(StrEnum):
    """The format of an export."""

    CSV = "csv"
    NDJSON = "ndjson"


Channel = Annotated[str, typer.Option("--channel", "-c", help="A channel.")]
AddressPart = Annotated[str, typer.Option("--address", help="A part of the address.")]
Scope = Annotated[str, typer.Option(help="all or marketing.")]
Source = Annotated[str, typer.Option(help="api, bounce, complaint, import, opt_out or unsubscribe.")]
ReasonPart = Annotated[str, typer.Option("--reason", help="A part of the reason.")]
Filter = Mapping[str, object]
_FILTER = {"channel": Channel, "address": AddressPart, "scope": Scope, "source": Source, "reason": ReasonPart}


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a filter to a command, which gets their values as `wanted`."""
    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.name != "wanted"]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=kind)
        for name, kind in _FILTER.items()
    ]

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        command(*args, wanted={name: options.pop(name) for name in _FILTER}, **options)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    first = sum(one.default is inspect.Parameter.empty for one in own)
    made = signature.replace(parameters=[*parameters[:first], *options, *parameters[first:]])
    # typer reads a command's options from these
    vars(run).update(__signature__=made)
    run.__annotations__ = {one.name: one.annotation for one in made.parameters.values()}
    return run


@app.callback(invoke_without_command=True)
def suppressions(context: typer.Context, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List suppressed addresses, or use the commands below."""
    if context.invoked_subcommand is None:
        _show_page(context, url, {"limit": 50}, as_json=as_json)


@app.command("list")
@_filtered
def list_all(
    context: typer.Context,
    wanted: Filter,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 50,
    cursor: Annotated[str, typer.Option(help="Where the previous page ended.")] = "",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the suppressions that match, a page at a time."""
    _show_page(context, url, {**wanted, "limit": limit, "cursor": cursor}, as_json=as_json)


@app.command()
def show(
    context: typer.Context,
    suppression: Annotated[str, typer.Argument(help="A suppression's id.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Show one suppression, by its id."""
    print_json(call_api(context, url, lambda api: api.get(within(PATH, suppression))))


@app.command()
def add(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="An email address or a phone number.")],
    channel: Channel = "email",
    scope: Annotated[str, typer.Option(help="all or marketing; by default, the source decides.")] = "",
    source: Source = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "manual",
    expires_at: Annotated[str, typer.Option(help="When it ends (RFC 3339); by default never.")] = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Suppress an address."""
    body = {"channel": channel, "address": address, "reason": reason}
    body |= given({"scope": scope, "source": source, "expiresAt": expires_at})
    print_json(call_api(context, url, lambda api: api.post(PATH, body)))


@app.command()
@_filtered
def lift(
    context: typer.Context,
    wanted: Filter,
    suppression: Annotated[str, typer.Argument(help="A suppression's id; leave it out to use a filter.")] = "",
    confirm: Annotated[int | None, typer.Option(min=0, help="Lift them if exactly this many match.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Lift one suppression, or all that match; without --confirm, those are only counted."""
    if bool(suppression) == bool(given(wanted)):
        raise usage_error(context, "give either a suppression's id or a filter such as --source bounce")
    if suppression:
        answer = call_api(context, url, lambda api: api.call("DELETE", within(PATH, suppression)))
        line = str(answer["message"])
    else:
        body: dict[str, object] = {**given(wanted)} | ({} if confirm is None else {"confirm": confirm})
        answer = call_api(context, url, lambda api: api.post(within(PATH, "lift"), body))
        line = f"{answer['lifted']} lifted"
        if confirm is None:
            line = f"{answer['matched']} match, none was lifted; add --confirm {answer['matched']} to lift them"
    print_json(answer) if as_json else _console.print(line, markup=False)


@app.command("import")
def import_file(
    context: typer.Context,
    csv: Annotated[Path, typer.Argument(help="A CSV file with a column address, email or phone.")],
    channel: Channel = "",
    scope: Scope = "",
    source: Source = "",
    reason: Annotated[str, typer.Option(help="For rows that name none.")] = "",
    permissive: Annotated[bool, typer.Option(help="Store the valid rows even if others are invalid.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Check the file and store nothing.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Suppress every address of a file; safe to repeat."""
    query = {
        "channel": channel,
        "scope": scope,
        "source": source,
        "reason": reason,
        "validation": "permissive" if permissive else "",
        "dryRun": "true" if dry_run else "",
    }
    path = existing_file(context, csv)
    answer = call_api(context, url, lambda api: _upload(api, path, given(query)))
    print_json(answer) if as_json else _report(answer)


@app.command("export")
@_filtered
def export_all(
    context: typer.Context,
    wanted: Filter,
    form: Annotated[Form, typer.Option(help="csv (which can be imported again) or ndjson.")] = Form.CSV,
    spreadsheet: Annotated[bool, typer.Option(help="CSV with a byte order mark, and phone numbers as text.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Write every suppression that matches to stdout."""
    query = {**wanted, "format": form.value, "for": "spreadsheet" if spreadsheet else ""}
    call_api(context, url, lambda api: _write_out(api, query))


def _show_page(context: typer.Context, url: str, query: Mapping[str, object], *, as_json: bool) -> None:
    answer = call_api(context, url, lambda api: api.get(PATH, query))
    if as_json:
        print_json(answer)
        return
    rows = table(("channel", "address", "stops", "source", "reason", "until", "id"), whole=("address", "id"))
    for one in answer["suppressions"]:
        texts = (one["address"], one["scope"], one["source"], one["reason"], one["expiresAt"] or "", one["id"])
        rows.add_row(one["channel"], *map(Text, texts))
    _console.print(rows)
    if answer["nextCursor"]:
        _console.print(
            f"next page: kurir suppressions list --cursor {answer['nextCursor']}", markup=False, soft_wrap=True
        )


async def _upload(api: ApiClient, path: Path, query: Mapping[str, str]) -> Answer:
    headers = {"Content-Type": "text/csv"}
    return await api.call("POST", within(PATH, "import"), params=query, data=_pieces(path), headers=headers)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk


async def _write_out(api: ApiClient, query: Mapping[str, object]) -> None:
    async for chunk in api.lines(PATH, query):
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _report(answer: Mapping[str, Any]) -> None:
    if answer.get("dryRun"):
        _console.print(f"Nothing was stored: {answer['total']} suppressions are valid.", markup=False)
    else:
        counts = f"{answer['added']} added, {answer['changed']} changed, {answer['unchanged']} unchanged"
        _console.print(f"{answer['total']} suppressions: {counts}.", markup=False)
    if answer["ignoredColumns"]:
        _console.print(f"ignored columns: {', '.join(answer['ignoredColumns'])}", markup=False)
    if answer["rejected"]:
        _console.print(f"{answer['rejected']} rows were refused:", markup=False)
    for problem in answer.get("errors", [])[:20]:
        _console.print(f"  {problem['field']}: {problem['message']}", markup=False)
