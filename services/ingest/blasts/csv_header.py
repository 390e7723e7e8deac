"""The header of a CSV file: the meaning of each column, by the names in common use.

`name`, `email`, `phone` and `reference` are the recipient's own fields, in any case. Where a file lacks one of them, a
column with another usual name takes its place (`ALIASES`). Every column but those four is a variable as well, so that
a template may have a variable `mobile`. Columns without a name must be empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.ingest.http.errors import ApiError

MAX_COLUMNS = 500
OWN_COLUMNS = ("name", "email", "phone", "reference")
# compared without case, spaces and signs: `E-mail`, `e mail` and `EMAIL` are the same
ALIASES = {
    "name": ("full name", "recipient name", "nama", "nama lengkap"),
    "email": (
        "e-mail", "mail", "email address", "e-mail address", "email id", "recipient email", "primary email",
        "e-mail 1 - value", "alamat email", "surel",
    ),
    "phone": (
        "phone number", "phone no", "telephone", "telephone number", "tel", "mobile", "mobile phone", "mobile number",
        "mobile phone number", "mobile no",
        "cell", "cell phone", "cell number", "whatsapp", "whatsapp number", "whatsapp no", "whatsapp phone",
        "whatsapp phone number", "wa", "wa number", "recipient phone", "phone 1 - value", "hp", "no hp", "nomor hp",
        "handphone", "telepon", "no telepon", "nomor telepon", "telp", "no telp", "no wa", "nomor wa", "no whatsapp",
        "nomor whatsapp",
    ),
}  # fmt: skip
_MARKS = dict.fromkeys(map(ord, "\ufeff\u200b\u200e\u200f\u2060"))
_SHOWN, _SHOWN_CHARS = 10, 40
# does not quote the row: it may hold a recipient's data
_NO_HEADER = (
    "the first row has no column for a recipient (name, email or phone): begin the file with a row of column names"
)

# a name of a column that contains an address is a row: the header lacks its line end, or the file lacks a header
_ADDRESS = re.compile(r"[^\s@]@[^\s@]")
_NO_NAMES = "the first row contains an email address: begin the file with a row of column names, in a line of its own"


def name_key(name: str) -> str:
    """Return the key by which names are compared: without case, spaces and signs."""
    return "".join(filter(str.isalnum, name.casefold()))


_FIELDS = {name_key(alias): field for field, aliases in ALIASES.items() for alias in (field, *aliases)}
_PREFIX = "variables."


def is_own_column(name: str) -> bool:
    """Return whether a column of this name is, or could be, one of the recipient's own fields."""
    return name_key(name) in _FIELDS


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of a file; `own` maps a recipient's field to its column, `variables` a variable's name.

    `aliased` are the names of columns that take the place of a recipient's field. `unclear` maps a field to the names
    of the columns that could each be it. `nameless` are the columns up to `width` without a name.
    """

    width: int
    own: tuple[tuple[str, int], ...]
    variables: tuple[tuple[str, int], ...]
    nameless: tuple[int, ...] = ()
    aliased: frozenset[str] = frozenset()
    unclear: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def fields(self, cells: Sequence[str]) -> dict[str, Any]:
        """Return a row in the shape of a recipient's JSON."""
        fields: dict[str, Any] = {name: cells[place] for name, place in self.own if cells[place]}
        fields["variables"] = {name: cells[place] for name, place in self.variables if cells[place]}
        return fields

    def shown(self) -> str:
        """Return the names of the columns, for a message."""
        variables = {place for _, place in self.variables}
        own = [field for field, place in self.own if place not in variables]
        names = [name for name, _ in sorted(self.variables, key=lambda pair: pair[1])]
        return quoted(dict.fromkeys([*own, *names]))


def quoted(names: Sequence[str] | dict[str, None]) -> str:
    """Return names for a message: the first ten, each cut to forty characters."""
    shown = ", ".join(repr(name[:_SHOWN_CHARS]) for name in list(names)[:_SHOWN])
    return f"{shown} …" if len(names) > _SHOWN else shown


def read_header(cells: Sequence[str], *, recipients: bool = True) -> Header:
    """Read a header row; raises ApiError MALFORMED_CSV for duplicate columns, too many, or no recipient's column.

    So it does for a row with an address: it would be lost as the name of a column.
    """
    names = [" ".join(cell.translate(_MARKS).split()) for cell in cells]
    while names and not names[-1]:
        names.pop()
    named = [(name, place) for place, name in enumerate(names) if name]
    if len(named) > MAX_COLUMNS:
        raise ApiError("MALFORMED_CSV", f"the header has more than {MAX_COLUMNS} columns")
    own = _once([(name.lower(), place) for name, place in named if name.lower() in OWN_COLUMNS])
    variables = _once([(_variable(name), place) for name, place in named if place not in own.values()])
    candidates: dict[str, list[str]] = {}
    for name in variables:
        field = _FIELDS.get(name_key(name), "")
        if field and field not in own:
            candidates.setdefault(field, []).append(name)
    if recipients and not own and not candidates:
        raise ApiError("MALFORMED_CSV", _NO_HEADER)
    if any(_ADDRESS.search(name) for name, _ in named):
        raise ApiError("MALFORMED_CSV", _NO_NAMES)
    clear = {field: found[0] for field, found in candidates.items() if len(found) == 1}
    return Header(
        width=len(names),
        own=(*own.items(), *((field, variables[name]) for field, name in clear.items())),
        variables=tuple(variables.items()),
        nameless=tuple(place for place, name in enumerate(names) if not name),
        aliased=frozenset(clear.values()),
        unclear=tuple((field, tuple(found)) for field, found in candidates.items() if len(found) > 1),
    )


def _variable(name: str) -> str:
    return name[len(_PREFIX) :] if name.lower().startswith(_PREFIX) else name


def _once(pairs: Sequence[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, place in pairs:
        if name in found:
            raise ApiError("MALFORMED_CSV", f"the header names the column {name[:60]!r} twice: remove or rename one")
        found[name] = place
    return found
