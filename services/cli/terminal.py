"""The terminal: tables, JSON, warnings and error lines for the user, and checks of the files they name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from shared.lifecycle import EXIT_SETTINGS

_PIPED_WIDTH = 240
MOST_PROBLEMS = 20


def stdout() -> Console:
    """Return the console of stdout; lines for a pipe or a file are long instead of cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def table(columns: Sequence[str], *, whole: Sequence[str] = (), title: str = "") -> Table:
    """Return an empty table; the columns named in `whole` are never cut or broken."""
    made = Table(title=title or None)
    for name in columns:
        made.add_column(name, no_wrap=name in whole)
    return made


def complain(command: str, lines: list[str]) -> None:
    """Write error lines to stderr, each after the command's name."""
    for line in lines:
        sys.stderr.write(f"kurir {command}: {line}\n")


def print_warnings(answer: Mapping[str, Any]) -> None:
    """Print the API's warnings on stderr, one line each."""
    warnings = answer.get("warnings", [])
    for one in warnings[:MOST_PROBLEMS]:
        sys.stderr.write(f"  warning: {one['field']}: {one['message']}\n")
    if len(warnings) > MOST_PROBLEMS:
        sys.stderr.write(f"  warning: … and {len(warnings) - MOST_PROBLEMS} more\n")


def print_json(answer: object) -> None:
    """Print an answer as indented JSON."""
    sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())


def command_of(context: typer.Context) -> str:
    """Return a command as it was typed after `kurir`, such as `suppressions add`."""
    names: list[str] = []
    at: Any = context
    while at.parent is not None:
        names.insert(0, at.info_name or "")
        at = at.parent
    return " ".join(names)


def usage_error(context: typer.Context, line: str) -> typer.Exit:
    """Report a usage error on stderr and return the exit to raise (code 2)."""
    complain(command_of(context), [line])
    return typer.Exit(EXIT_SETTINGS)


def existing_file(context: typer.Context, path: Path) -> Path:
    """Return the path of an existing file or pipe; ends the command otherwise, and says what is there instead."""
    if path.is_dir():
        raise usage_error(context, f"{path} is a folder, not a file")
    if path.is_fifo():  # /dev/stdin behind another command, or a shell's <(…)
        return path
    if path.exists() and not path.is_file():
        raise usage_error(context, f"{path} is not a regular file: write it to a file first")
    if not path.is_file():
        raise usage_error(context, f"the file {path} does not exist")
    return path
