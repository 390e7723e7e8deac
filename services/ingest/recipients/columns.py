"""The columns of a file against its blast: what is wrong with the whole file is one problem, not one in each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.ingest.problems import ApiError, Problem
from services.ingest.recipients.csv_header import OWN_COLUMNS, Header, name_key, quoted
from services.ingest.recipients.csv_rows import CsvRow
from services.ingest.recipients.rules import Rules, printed_names
from shared.channels import CHANNELS

_WHOLE = "recipients"
_SHOWN_LINES = 3


def matched_columns(header: Header, rules: Rules) -> Header:
    """Return the header with the template's spelling of each variable's name: case, spaces and signs do not count.

    Raises ApiError MALFORMED_CSV where two columns are one variable, or one column could be two.
    """
    names = [variable.name for variable in rules.template.variables]
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(name_key(name), []).append(name)
    columns: dict[str, tuple[str, int]] = {}
    for written, place in header.variables:
        near = [written] if written in names else by_key.get(name_key(written), [written])
        if len(near) > 1:
            raise ApiError("MALFORMED_CSV", f"the column {written[:60]!r} could be each of {quoted(near)}: name it so")
        if near[0] in columns:
            both = quoted([columns[near[0]][0], written])
            raise ApiError("MALFORMED_CSV", f"the columns {both} are both the variable {near[0]!r}: leave one out")
        columns[near[0]] = written, place
    return replace(header, variables=tuple((name, place) for name, (_, place) in columns.items()))


def missing_columns(header: Header, rules: Rules) -> dict[str, Problem]:
    """Return a problem for each column that the blast needs and the file lacks, by the field of a recipient.

    Raises ApiError MALFORMED_CSV where several columns could be the one that a channel sends to.
    """
    found = {}
    unclear, own = dict(header.unclear), dict(header.own)
    for field in dict.fromkeys(CHANNELS[name].address_field for name in rules.channels):
        if field in unclear:
            what = f"the columns {quoted(unclear[field])} could all be the {field}: name one of them {field!r}"
            raise ApiError("MALFORMED_CSV", what)
        if field not in own:
            found[field] = _missing(header, field, f"MISSING_{field.upper()}")
    known = {name for name, _ in header.variables}
    for variable in rules.template.variables:
        name = variable.name
        given = name in rules.global_variables or name in known or name in own
        if variable.required and variable.default is None and not given and name not in found:
            found[f"variables.{name}"] = _missing(header, name, "MISSING_REQUIRED_VARIABLE")
    for name in dict.fromkeys(name for _, names in printed_names(rules) for name in names):
        if name not in own and name not in known and name not in unclear:
            found.setdefault(name, _missing(header, name, "MISSING_REQUIRED_VARIABLE"))
    return found


def _missing(header: Header, name: str, code: str) -> Problem:
    what = "column" if name in OWN_COLUMNS else "column for the variable"
    return Problem(_WHOLE, code, f"the file has no {what} {name!r}; its columns are {header.shown()}")


class StrayCells:
    """Rows that have text in a column without a name: counted, the first lines kept."""

    def __init__(self) -> None:
        self._count = 0
        self._lines: list[int] = []
        self._column = 0

    def add(self, row: CsvRow) -> None:
        """Note a row."""
        self._column = self._column or row.stray_column
        self._count += 1
        if len(self._lines) < _SHOWN_LINES:
            self._lines.append(row.line)

    def problems(self) -> Sequence[Problem]:
        """Return the one problem that they are, none where there is no such row."""
        if not self._count:
            return ()
        lines = ", ".join(map(str, self._lines)) + (" …" if self._count > _SHOWN_LINES else "")
        what = (
            f"{self._count} {'row has' if self._count == 1 else 'rows have'} text in a column that the header does not "
            f"name, first column {self._column} (line {lines}): name it, or quote the cells that hold a separator"
        )
        return [Problem(_WHOLE, "INVALID_VALUE", what)]
