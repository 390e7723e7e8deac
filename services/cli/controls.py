"""`kurir pause`, `resume`, `cancel`, `retry`, `limit`, `backup`: control of channels, blasts, messages and the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.api_client import (
    DEFAULT_LOGGER_URL,
    DEFAULT_URL,
    Answer,
    AsJson,
    DataDir,
    LoggerUrl,
    Url,
    call_api,
    call_logger,
    within,
)
from services.cli.terminal import print_json, stdout, usage_error
from shared.channels import CHANNELS
from shared.jobs import parse_job_id

_console = stdout()

ChannelOrBlast = Annotated[str, typer.Argument(help="A channel, or the id of a blast.")]
BlastOrJob = Annotated[str, typer.Argument(help="The id of a blast or a message.")]


def pause(
    context: typer.Context,
    target: ChannelOrBlast,
    reason: Annotated[str, typer.Option(help="Shown wherever the pause is shown.")] = "paused from the command line",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Pause a channel or a blast; messages being sent are still finished."""
    _refuse_message(context, target, f"paused: cancel it with `kurir cancel {target}`, or pause its blast")
    path = _path(target, "pause")
    _report(call_api(context, url, lambda api: api.post(path, {"reason": reason})), f"{target} is paused", as_json)


def resume(context: typer.Context, target: ChannelOrBlast, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Resume a channel or a blast."""
    _refuse_message(context, target, "resumed: give its blast or its channel")
    path = _path(target, "resume")
    _report(call_api(context, url, lambda api: api.post(path)), f"{target} is resumed", as_json)


def cancel(context: typer.Context, target: BlastOrJob, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Cancel one message, or all messages of a blast that are not being sent yet."""
    stop = f"give the id of a blast or a message, or stop the channel with `kurir pause {target}`"
    _refuse_channel(context, target, "cancelled", stop)
    path = _path(target, "cancel")
    _report(call_api(context, url, lambda api: api.post(path)), f"{target} is cancelled", as_json)


def retry(
    context: typer.Context,
    target: BlastOrJob,
    include_uncertain: Annotated[bool, typer.Option(help="Include messages that may have been delivered.")] = False,
    channel: Annotated[str | None, typer.Option(help="Of a blast: only on this channel.")] = None,
    error_class: Annotated[str | None, typer.Option(help="Of a blast: only this class of error.")] = None,
    error_code: Annotated[str | None, typer.Option(help="Of a blast: only this code of error.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send the failed messages of a blast again, or one message."""
    _refuse_channel(context, target, "retried", "give the id of a blast or a message")
    reason = {"channel": channel, "errorClass": error_class, "errorCode": error_code}
    named = {name: value for name, value in reason.items() if value is not None}
    if named and parse_job_id(target):
        raise usage_error(context, "--channel, --error-class and --error-code choose among the messages of a blast")
    path = _path(target, "retry" if parse_job_id(target) else "retry-failed")
    body = {"includeUncertain": include_uncertain, **named}
    answer = call_api(context, url, lambda api: api.post(path, body))
    what = f"{answer.get('reopened', 0)} messages are queued again"
    if answer.get("skipped"):
        what += f", {answer['skipped']} left out: they may have been delivered, or their blast was cancelled"
        what += "; --include-uncertain retries the former"
    _report(answer, what, as_json)


def limit(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(help="A channel.")],
    rate: Annotated[str, typer.Argument(help='"10/1s", "off", or "default" for the senders\' own setting.')],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Change a channel's rate limit, immediately for all its senders."""
    if channel not in CHANNELS:
        raise usage_error(context, f"there is no channel {channel}: use {' or '.join(CHANNELS)}")
    body = {"rate": None if rate == "default" else rate}
    answer = call_api(context, url, lambda api: api.call("PATCH", within("/api/v1/channels", channel), json=body))
    _report(answer, f"{channel}: {answer['channel']['rate'] or 'unknown until a sender runs'}", as_json)


def _refuse_channel(context: typer.Context, target: str, done: str, instead: str) -> None:
    """Raise a usage error where a channel was given to a command for blasts and messages."""
    if target in CHANNELS:
        raise usage_error(context, f"{target} is a channel, which cannot be {done}: {instead}")


def _refuse_message(context: typer.Context, target: str, problem: str) -> None:
    """Raise a usage error where a message was given to a command for channels and blasts."""
    if parse_job_id(target):
        raise usage_error(context, f"one message cannot be {problem}")


def _path(target: str, action: str) -> str:
    if target in CHANNELS:
        return within("/api/v1/channels", target, action)
    if parse_job_id(target):
        return within("/api/v1/messages", target, action)
    return within("/api/v1/blasts", target, action)


def _report(answer: Answer, line: str, as_json: bool) -> None:
    print_json(answer) if as_json else _console.print(line, markup=False)


def backup(
    context: typer.Context,
    path: Annotated[
        str, typer.Argument(help="The file: a name, or a path in the logger's data folder or KURIR_BACKUP_DIR.")
    ],
    url: LoggerUrl = DEFAULT_LOGGER_URL,
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Write a consistent copy of the database while sending and logging continue."""
    body = {"path": path if "/" not in path else str(Path(path).absolute())}
    answer = call_logger(context, url, data_dir, lambda api: api.post("/internal/backup", body))
    print_json(answer) if as_json else _console.print(f"written: {answer.get('path', path)}", markup=False)
