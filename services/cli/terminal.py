"""What commands write on: wide where nobody looks, and tables that never cut what one copies from them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

_PIPED_WIDTH = 240


def stdout() -> Console:
    """Return the console of stdout; a pipe or a file gets long lines instead of cut ones."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def table(columns: Sequence[str], *, whole: Sequence[str] = (), title: str = "") -> Table:
    """Return an empty table; the columns named in `whole` are never cut or broken."""
    made = Table(title=title or None)
    for name in columns:
        made.add_column(name, no_wrap=name in whole)
    return made
