"""Translation: the log's statements, which are written for both databases, in PostgreSQL's words.

| SQLite | PostgreSQL |
| --- | --- |
| `?`, `?2` | `$1`, `$2` |
| `INDEXED BY name` | nothing: the planner chooses |
| `x IN (SELECT value FROM json_each(?))` | `x = ANY($1)`, with the list as an array |
| `min(a, b)`, `max(a, b)` | `least(a, b)`, `greatest(a, b)` |
| `UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'table'` | the same for the sequence of its numbers |

Where a statement looks for messages by job, blast or row id, bounds for the partitions are added: without them, each
lookup would search every day.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from services.logger.postgres.days import day_range, first_id

_HINT = re.compile(r"\s+INDEXED BY \w+")
_LIST = re.compile(r"(?P<column>\w+) IN \(SELECT value FROM json_each\(\?(?P<number>\d*)\)\)")
_SCALAR = re.compile(r"\b(min|max)\(([^(),]+),([^(),]+)\)")
_ONE_JOB = re.compile(r"(?<![.\w])(?P<prefix>m\.)?job_id = \?(?P<number>\d*)")
_ONE_BLAST = re.compile(r"(?<![.\w])blast_id = \?(?P<number>\d*)")
_MARK = re.compile(r"'(?:[^']|'')*'|\?(\d*)")
_TABLE = re.compile(r"\b(?:FROM|UPDATE|INTO)\s+(\w+)")
_NUMBERS = frozenset({"id", "n"})
_BY_DAY = frozenset({"message_attempts", "message_receipts"})
_SEQUENCE = re.compile(r"UPDATE sqlite_sequence SET seq = max\(seq, \?\) WHERE name = '(\w+)'")
# a sequence that gave no number yet gives `last_value` next
_CONTINUE = r"""
SELECT setval('\1_number_seq', greatest(last_value, used), is_called OR used >= last_value)
FROM \1_number_seq, CAST(? AS bigint) AS used
"""
_REPLACEMENTS = {"min": "least", "max": "greatest"}
Derive = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Translated:
    """A statement for PostgreSQL: the parameters it uses, which of them are lists, and some that follow from others."""

    sql: str
    used: Sequence[int]
    lists: frozenset[int]
    derived: Sequence[tuple[int, Derive]]

    def values(self, parameters: Sequence[Any]) -> list[Any]:
        """Return the values for PostgreSQL, whose text has no NUL."""
        values = [clean(value) for value in parameters]
        for place in self.lists:
            values[place] = [clean(value) for value in orjson.loads(values[place])]
        return [values[place] for place in self.used] + [derive(values[place]) for place, derive in self.derived]


def clean(value: Any) -> Any:
    """Return a value that PostgreSQL takes: its text cannot have a NUL."""
    return value.replace("\0", "\ufffd") if type(value) is str and "\0" in value else value


@lru_cache(1024)
def translate(sql: str) -> Translated:
    """Translate a statement."""
    return _Translation(_SEQUENCE.sub(_CONTINUE, _HINT.sub("", sql))).translate()


class _Translation:
    """The translation of one statement: its marks get numbers from left to right."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        found = _TABLE.search(sql)
        self._table = found[1] if found else ""
        self._lists: set[int] = set()
        self._derived: list[tuple[int, Derive]] = []
        self._used: list[int] = []
        self._count = 0

    def translate(self) -> Translated:
        sql = _SCALAR.sub(lambda found: f"{_REPLACEMENTS[found[1]]}({found[2]},{found[3]})", self._sql)
        sql = self._renumbered(_MARK.sub(self._number, sql))
        sql = _LIST.sub(self._list, sql)
        sql = _ONE_JOB.sub(self._one_job, sql)
        sql = _ONE_BLAST.sub(self._one_blast, sql)
        return Translated(_MARK.sub(_dollar, sql), self._used, frozenset(self._lists), tuple(self._derived))

    def _number(self, found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        number = int(found[1]) if found[1] else self._count + 1
        self._count = max(self._count, number)
        return f"?{number}"

    def _renumbered(self, sql: str) -> str:
        """Number the parameters that are used from 1: the type of one that is not used would be unknown."""
        self._used = sorted({int(found[1]) - 1 for found in _MARK.finditer(sql) if found[1]})
        self._count = len(self._used)
        numbers = {str(place + 1): number for number, place in enumerate(self._used, start=1)}
        return _MARK.sub(lambda found: f"?{numbers[found[1]]}" if found[1] else found[0], sql)

    def _derive(self, number: int, derive: Derive) -> str:
        self._derived.append((self._used[number - 1], derive))
        self._count += 1
        return f"?{self._count}"

    def _list(self, found: re.Match[str]) -> str:
        column, number = found["column"], int(found["number"])
        self._lists.add(self._used[number - 1])
        kind = "bigint" if column in _NUMBERS else "text"
        condition = f"{column} = ANY(?{number}::{kind}[])"
        if self._table == "message_logs" and column == "id":
            low, high = self._derive(number, _lowest), self._derive(number, _highest)
            return f"{condition} AND id >= {low} AND id <= {high}"
        return condition + self._bounds(column, number, "", lambda value: value)

    def _one_job(self, found: re.Match[str]) -> str:
        prefix, number = found["prefix"] or "", int(found["number"])
        return found[0] + self._bounds("job_id", number, prefix, lambda value: [value])

    def _one_blast(self, found: re.Match[str]) -> str:
        # all messages of a blast are in the partition of its day
        return found[0] + self._bounds("job_id", int(found["number"]), "", lambda value: [value])

    def _bounds(self, column: str, number: int, prefix: str, jobs_of: Callable[[Any], list[str]]) -> str:
        """Return the condition on the days of jobs, "" where the table has no partitions."""
        if column != "job_id":
            return ""
        if self._table == "message_logs":
            low = self._derive(number, lambda value: first_id(day_range(jobs_of(value))[0]))
            high = self._derive(number, lambda value: first_id(day_range(jobs_of(value))[1] + 1))
            return f" AND {prefix}id >= {low} AND {prefix}id < {high}"
        if self._table in _BY_DAY:
            low = self._derive(number, lambda value: day_range(jobs_of(value))[0])
            high = self._derive(number, lambda value: day_range(jobs_of(value))[1])
            return f" AND day >= {low} AND day <= {high}"
        return ""


def _dollar(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else f"${found[1]}"


def _lowest(ids: Sequence[int]) -> int:
    return min(ids, default=0)


def _highest(ids: Sequence[int]) -> int:
    return max(ids, default=-1)
