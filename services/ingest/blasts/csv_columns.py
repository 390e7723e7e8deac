"""A file's columns checked against its blast: a mistake in the header is one problem, not one per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.ingest.blasts.csv_header import OWN_COLUMNS, Header, name_key, quoted
from services.ingest.blasts.csv_rows import CsvRow
from services.ingest.blasts.recipients import Rules, printed_names
from services.ingest.http.errors import ApiError, Problem
from shared.channels import CHANNELS

_WHOLE = "recipients"
_SHOWN_LINES = 3


def matched_columns(header: Header, rules: Rules) -> Header:
    """Return the header with the template's spelling of each variable's name; case, spaces and signs do not matter.

    Raises ApiError MALFORMED_CSV where two columns match one variable, or one column matches several.
    """
    names = [variable.name for variable in rules.template.variables]
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(name_key(name), []).append(name)
    columns: dict[str, tuple[str, int]] = {}
    for written, place in header.variables:
        near = [written] if written in names else by_key.get(name_key(written), [written])
        if len(near) > 1:
            what = f"the column {written[:60]!r} matches several variables, {quoted(near)}: rename it to one of them"
            raise ApiError("MALFORMED_CSV", what)
        if near[0] in columns:
            both = quoted([columns[near[0]][0], written])
            raise ApiError("MALFORMED_CSV", f"the columns {both} both match the variable {near[0]!r}: remove one")
        columns[near[0]] = written, place
    return replace(header, variables=tuple((name, place) for name, (_, place) in columns.items()))


def missing_columns(header: Header, rules: Rules) -> dict[str, Problem]:
    """Return a problem for each column that the blast needs and the file lacks, keyed by the recipient's field.

    Raises ApiError MALFORMED_CSV where several columns could hold a channel's address.
    """
    found = {}
    unclear, own = dict(header.unclear), dict(header.own)
    for field in dict.fromkeys(CHANNELS[name].address_field for name in rules.channels):
        if field in unclear:
            what = f"any of the columns {quoted(unclear[field])} could be the {field}: rename one of them to {field!r}"
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


class UnfitRows:
    """Rows that do not fit the header: counted, with their first line numbers, and reported as one problem per kind."""

    def __init__(self) -> None:
        self._strays = _Lines()
        self._column = 0
        self._parted: dict[str, _Lines] = {}

    def take(self, row: CsvRow) -> bool:
        """Note the row if it does not fit the header; return whether it was noted."""
        if column := row.stray_column:
            self._column = self._column or column
            self._strays.add(row.line)
            return True
        if other := row.other_separator:
            self._parted.setdefault(other, _Lines()).add(row.line)
            return True
        return False

    def problems(self) -> Sequence[Problem]:
        """Return one problem for each kind of such rows."""
        found = []
        if self._strays.count:
            found.append(
                f"{self._strays.rows('has', 'have')} text in a column without a name, first in column {self._column} "
                f"({self._strays}): name the column in the header, or quote cells that contain the separator"
            )
        found += [
            f"{lines.rows('is', 'are')} separated by {_named(other)}, but the header is not ({lines}): "
            "use one separator in the whole file"
            for other, lines in self._parted.items()
        ]
        return [Problem(_WHOLE, "INVALID_VALUE", what) for what in found]


class _Lines:
    def __init__(self) -> None:
        self.count = 0
        self._first: list[int] = []

    def add(self, line: int) -> None:
        self.count += 1
        if len(self._first) < _SHOWN_LINES:
            self._first.append(line)

    def rows(self, one: str, many: str) -> str:
        return f"1 row {one}" if self.count == 1 else f"{self.count} rows {many}"

    def __str__(self) -> str:
        return f"line {', '.join(map(str, self._first))}" + (" …" if self.count > _SHOWN_LINES else "")


def _named(separator: str) -> str:
    return "tabs" if separator == "\t" else repr(separator)
