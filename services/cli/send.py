"""`kurir send`: sends a blast to a file of recipients, and optionally follows it to its end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from aiohttp import MultipartWriter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from services.cli.api_client import DEFAULT_URL, Answer, ApiClient, AsJson, Url, call_api
from services.cli.progress import follow_blast
from services.cli.terminal import existing_file, print_json, print_warnings
from shared.lifecycle import EXIT_FAILED

_CHUNK = 256 * 1024
_console = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of recipients, the blast's head, and the key that makes the call safe to repeat."""

    path: Path
    blast: Mapping[str, Any]
    idempotency_key: str


def send(
    context: typer.Context,
    template: Annotated[str, typer.Option("--template", "-t", help="The template's id.")],
    csv: Annotated[Path, typer.Option(help="Recipients: name, email, phone, reference; other columns are variables.")],
    channel: Annotated[list[str] | None, typer.Option("--channel", "-c", help="A channel; may be repeated.")] = None,
    var: Annotated[list[str] | None, typer.Option(help="A variable for all recipients: name=value.")] = None,
    schedule: Annotated[str, typer.Option(help="When to send (RFC 3339: 2026-01-31T12:00:00Z).")] = "",
    expires: Annotated[str, typer.Option(help="Do not send after this time.")] = "",
    priority: Annotated[int | None, typer.Option(min=0, max=2, help="0 first, 1 normal, 2 bulk.")] = None,
    sender: Annotated[str, typer.Option("--from", help="The sender's mailbox; the configured one by default.")] = "",
    reference: Annotated[str, typer.Option(help="Your own name for the blast.")] = "",
    permissive: Annotated[bool, typer.Option(help="Queue the valid rows even if others are invalid.")] = False,
    idempotency_key: Annotated[str, typer.Option(help="Makes the call safe to repeat.")] = "",
    dry_run: Annotated[bool, typer.Option(help="Check everything, send nothing.")] = False,
    watch: Annotated[bool, typer.Option(help="Follow the blast to its end; exit 1 if messages failed.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send one message to each recipient of a CSV file, through one channel or several."""
    blast = {
        "templateId": template,
        "channels": channel or ["email"],
        "globalVariables": _variables(var or []),
        "scheduledAt": schedule,
        "expiresAt": expires,
        "priority": priority,
        "from": sender,
        "reference": reference,
        "validation": "permissive" if permissive else "",
        "dryRun": dry_run or None,
    }
    given = {name: value for name, value in blast.items() if value not in (None, "", {})}
    upload = Upload(existing_file(context, csv), given, idempotency_key or secrets.token_hex(16))
    ended_well = call_api(context, url, lambda api: _send(api, upload, watch=watch and not dry_run, as_json=as_json))
    if not ended_well:
        raise typer.Exit(EXIT_FAILED)


def _variables(written: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in written:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} must be written as name=value", param_hint="--var")
        found[name] = value
    return found


async def _send(api: ApiClient, upload: Upload, *, watch: bool, as_json: bool) -> bool:
    answer = await _post(api, upload, quiet=as_json)
    if not watch:
        print_json(answer) if as_json else _say(answer, upload)
        return True
    if not as_json:
        _say(answer, upload)
    blast = await follow_blast(api, str(answer["blastId"]), quiet=as_json)
    if as_json:
        print_json(blast)
    return str(blast["state"]) == "completed"


async def _post(api: ApiClient, upload: Upload, *, quiet: bool) -> Answer:
    """Upload as multipart: the blast as JSON, then the file, streamed from disk."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=_console, transient=True, disable=quiet) as progress:
        bar = progress.add_task("uploading", total=upload.path.stat().st_size or None)
        body = _multipart(upload, lambda sent: progress.advance(bar, sent))
        headers = {"Idempotency-Key": upload.idempotency_key}
        return await api.call("POST", "/api/v1/messages/blast", data=body, headers=headers)


def _multipart(upload: Upload, advance: Callable[[int], None]) -> MultipartWriter:
    writer = MultipartWriter("form-data")
    blast = writer.append(orjson.dumps(upload.blast), {"Content-Type": "application/json"})
    blast.set_content_disposition("form-data", name="blast")
    recipients = writer.append(_pieces(upload.path, advance), {"Content-Type": "text/csv"})
    recipients.set_content_disposition("form-data", name="recipients", filename="recipients.csv")
    return writer


async def _pieces(path: Path, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
            advance(len(chunk))


def _say(answer: Answer, upload: Upload) -> None:
    messages, recipients = answer["totalMessages"], answer["totalRecipients"]
    what = f"{messages} messages to {recipients} recipients"
    refused = answer.get("rejectedRecipients") or 0
    if answer.get("dryRun"):
        _console.print(f"Nothing was sent: {what} would be queued.")
    else:
        _console.print(f"Blast [bold]{answer['blastId']}[/bold]: {what} queued.")
        _console.print(f"  follow it: kurir status {answer['blastId']} --watch")
        _console.print(f"  to repeat the call without sending twice: --idempotency-key {upload.idempotency_key}")
    if answer.get("duplicates"):
        _console.print(f"  {answer['duplicates']} duplicate addresses were left out")
    print_warnings(answer)
    if refused:
        _console.print(f"[yellow]  {refused} recipients were refused:[/yellow]")
        for problem in answer.get("errors", [])[:20]:
            _console.print(f"    {problem['field']}: {problem['message']}", markup=False)
