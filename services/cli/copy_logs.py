"""`kurir copy-logs`: moves the log from the file in a data folder into PostgreSQL, by the logger's own program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.terminal import complain


def copy_logs(
    to: Annotated[str, typer.Option(help="the empty database: postgresql://user@host:port/database")],
    data_dir: Annotated[Path, typer.Option(help="the data folder of the system, which must be stopped")] = Path("data"),
) -> None:
    """Copy the log into PostgreSQL; a password may be in KURIR_DATABASE_PASSWORD. The file stays as it is."""
    # in the environment, since other users of this machine can read a command line
    env = {**os.environ, "KURIR_DATABASE_URL": to}
    command = [sys.executable, "-m", "services.logger.postgres", str(data_dir / "logs.db")]
    ended = subprocess.run(command, env=env, check=False, stderr=subprocess.PIPE, text=True)  # noqa: S603 -- our own program
    complain("copy-logs", ended.stderr.replace("KURIR_DATABASE_URL", "--to").splitlines())
    raise typer.Exit(ended.returncode)
