"""`kurir backup`: a copy of the log's database, taken while everything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.api_client import AsJson, call_api, print_json
from services.cli.terminal import stdout

_console = stdout()


def backup(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="The file to write, on the machine of the logger.")],
    url: Annotated[
        str, typer.Option("--url", envvar="KURIR_LOGGER_URL", help="Where the logger is.")
    ] = "http://127.0.0.1:3030",
    as_json: AsJson = False,
) -> None:
    """Write a consistent copy of the database; sending and logging go on meanwhile."""
    body = {"path": str(path.resolve())}
    answer = call_api(context, url, lambda api: api.post("/internal/backup", body))
    print_json(answer) if as_json else _console.print(f"written: {answer.get('path', path)}", markup=False)
