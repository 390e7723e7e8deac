"""`kurir backup`: a copy of the log's database, taken while everything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.api_client import AsJson, DataDir, call_logger, print_json
from services.cli.terminal import stdout

_console = stdout()


def backup(
    context: typer.Context,
    path: Annotated[
        str, typer.Argument(help="The file, in the logger's data folder or KURIR_BACKUP_DIR; a bare name goes there.")
    ],
    url: Annotated[
        str, typer.Option("--url", envvar="KURIR_LOGGER_URL", help="Where the logger is.")
    ] = "http://127.0.0.1:3030",
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Write a consistent copy of the database; sending and logging go on meanwhile."""
    body = {"path": path if "/" not in path else str(Path(path).absolute())}
    answer = call_logger(context, url, data_dir, lambda api: api.post("/internal/backup", body))
    print_json(answer) if as_json else _console.print(f"written: {answer.get('path', path)}", markup=False)
