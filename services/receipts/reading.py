"""The result of reading one entry: its receipts, and what in it is not one.

Every source has a reader of this shape. A reader is a pure function, and never raises: what it cannot read is a
`problem`, so that the entry is kept whole for a person to see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.receipts import Receipt


@dataclass(frozen=True, slots=True)
class Reading:
    """What an entry says.

    `ignored` counts the events that are known and of no interest, such as opens, clicks and inbound messages. `problem`
    is why the entry, or a part of it, cannot be read, "" if nothing is wrong; receipts beside it count all the same.
    """

    receipts: Sequence[Receipt] = ()
    ignored: int = 0
    problem: str = ""


Reader = Callable[[bytes, float], Reading]
"""Reads a body that was taken at a time (Unix seconds)."""
