"""The command `kurir`: the only module of the CLI that reads the environment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from services.cli import controls, suppressions, webhooks
from services.cli.api_client import Port
from services.cli.copy_logs import copy_logs
from services.cli.demo import DemoError, Screen, run_demo
from services.cli.doctor import doctor
from services.cli.failures import failures, retry_matching
from services.cli.logs import logs, query
from services.cli.monitor import monitor
from services.cli.plan import UpOptions
from services.cli.receipts import receipts
from services.cli.send import send
from services.cli.status import channels, message, status
from services.cli.templates import preview, templates
from services.cli.up import run_up
from shared.errors import SettingsError
from shared.lifecycle import EXIT_FAILED, EXIT_SETTINGS, Stop

ResultT = TypeVar("ResultT")

app = typer.Typer(
    name="kurir",
    help="Kurir, a self-hosted messaging gateway: run it on one machine, and use its API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console(stderr=True, highlight=False)


def run() -> None:
    """Run the command line; the environment is passed to the commands as the context's object."""
    app(obj=dict(os.environ))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kurir {version('kurir')}")
        raise typer.Exit


@app.callback()
def _of_all(
    _asked: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def up(
    context: typer.Context,
    port: Port = 3000,
    data_dir: Annotated[Path, typer.Option(help="The folder for all data.")] = Path("data"),
    redis_url: Annotated[str | None, typer.Option(help="Use this Redis or Valkey instead of an embedded one.")] = None,
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--sandbox/--no-sandbox", help="Sandbox all providers, or none; by default, those that are not configured."
        ),
    ] = None,
    email_senders: Annotated[int, typer.Option(min=1, max=10, help="How many email senders to run.")] = 1,
    whatsapp_senders: Annotated[int, typer.Option(min=1, max=10, help="How many WhatsApp senders to run.")] = 1,
    webhook_senders: Annotated[int, typer.Option(min=1, max=10, help="How many webhook senders to run.")] = 1,
) -> None:
    """Run the whole system in the foreground; Ctrl-C stops it."""
    options = UpOptions(
        port=port,
        data_dir=data_dir,
        redis_url=redis_url,
        sandbox=sandbox,
        senders={"email": email_senders, "whatsapp": whatsapp_senders, "webhook": webhook_senders},
    )
    run_until_stopped("up", lambda stop: run_up(options, context.obj, stop, announce))


@app.command()
def demo(
    context: typer.Context,
    port: Port = 3000,
    data_dir: Annotated[Path, typer.Option(help="The folder for all data.")] = Path("data"),
    began: Annotated[float | None, typer.Option(help="Count from this Unix time.", hidden=True)] = None,
) -> None:
    """Send 1,000 recipients through both channels of a sandboxed system, and check that the numbers add up."""
    options = UpOptions(port=port, data_dir=data_dir, sandbox=True)
    screen = Screen(Console(highlight=False), began or time.time())
    adds_up = run_until_stopped("demo", lambda stop: run_demo(options, context.obj, stop, screen))
    raise typer.Exit(0 if adds_up else EXIT_FAILED)


def announce(line: str) -> None:
    """Print a line for the user, distinct from the services' log lines."""
    _console.print(f"[bold]kurir[/bold] {line}", soft_wrap=True)


def run_until_stopped(command: str, main: Callable[[Stop], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Run a command until it ends or Ctrl-C or SIGTERM stops it, and return its result; a second Ctrl-C kills it.

    SettingsError becomes lines on stderr and exit code 2, DemoError one line and exit code 1.
    """
    try:
        return asyncio.run(_with_signals(main))
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"kurir {command}: {problem}\n")
        raise typer.Exit(EXIT_SETTINGS) from None
    except DemoError as error:
        sys.stderr.write(f"kurir {command}: {error}\n")
        raise typer.Exit(EXIT_FAILED) from None


async def _with_signals(main: Callable[[Stop], Coroutine[Any, Any, ResultT]]) -> ResultT:
    stop = Stop()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(130)  # the kernel kills the children as well
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return await main(stop)


for _command in (
    send,
    status,
    message,
    monitor,
    logs,
    query,
    channels,
    controls.pause,
    controls.resume,
    controls.cancel,
    controls.retry,
    failures,
    retry_matching,
    controls.limit,
    templates,
    preview,
    controls.backup,
    copy_logs,
    doctor,
    receipts,
):
    app.command()(_command)
app.add_typer(suppressions.app, name="suppressions")
app.add_typer(webhooks.app, name="webhooks")


if __name__ == "__main__":
    run()
