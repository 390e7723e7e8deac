"""Computed names: the variables whose values must be numbers or dates for rendering to succeed.

Variables declared as numbers or dates have been checked. For any other, a message may fail to render because of its
recipient's value. `Computed` finds cheaply the values that surely render; the others need a trial rendering.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

from jinja2 import nodes

from shared.numbers import NotANumberError, read_number
from shared.rendering.filters import NUMERIC
from shared.templates import Template

_Names = frozenset[str]
_NOTHING: _Names = frozenset()
_NUMERIC = NUMERIC | {"int", "float"}
_ARITHMETIC = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod)
_DIVISIONS = (nodes.Div, nodes.FloorDiv, nodes.Mod)
_ORDERINGS = frozenset({"lt", "lteq", "gt", "gteq"})
_NUMERIC_TESTS = frozenset({"divisibleby", "even", "odd"})
# jinja2's own variable, which holds numbers
_LOOP = "loop"


@dataclass(frozen=True, slots=True)
class Computed:
    """The names that are used as numbers and dates.

    `numbers` may also be texts with a number, which filters read; `operands` may not. `divisors` must not be zero. With
    `unknown` the template divides by a computed value, so no value is sure to render.
    """

    numbers: _Names = _NOTHING
    operands: _Names = _NOTHING
    dates: _Names = _NOTHING
    divisors: _Names = _NOTHING
    unknown: bool = False

    def unsure(self, template: Template, given: Iterable[str]) -> Computed:
        """Return the names that still need a check of each recipient's values, which fit their declared types.

        `given` are the names that have a value for every recipient.
        """
        always = set(given)
        sure: dict[str, set[str]] = {"number": set(), "date": set()}
        for one in template.variables:
            if one.type in sure and (one.required or one.default is not None or one.name in always):
                sure[one.type].add(one.name)
        return replace(
            self,
            numbers=self.numbers - sure["number"],
            operands=self.operands - sure["number"],
            dates=self.dates - sure["date"] - sure["number"],
        )

    @property
    def names(self) -> _Names:
        """All names that need a check."""
        return self.numbers | self.operands | self.dates | self.divisors

    def only(self, name: str) -> Computed:
        """Return the part that concerns one name."""
        one = frozenset({name})
        return Computed(self.numbers & one, self.operands & one, self.dates & one, self.divisors & one)

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Return whether rendering surely succeeds with these values."""
        return (
            not self.unknown
            and all(_is_number(values.get(name)) or _holds_number(values.get(name)) for name in self.numbers)
            and all(_is_number(values.get(name)) for name in self.operands)
            and all(_is_number(values.get(name)) and values[name] != 0 for name in self.divisors)
            and all(_is_day(values.get(name)) for name in self.dates)
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def _holds_number(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        read_number(value)
    except NotANumberError:
        return False
    return True


def _is_day(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(date.fromisoformat(value))
    except ValueError:
        return False


def all_computed(found: Iterable[Computed]) -> Computed:
    """Return the union of the computed names of several parts."""
    parts = list(found)
    return Computed(
        _NOTHING.union(*(one.numbers for one in parts)),
        _NOTHING.union(*(one.operands for one in parts)),
        _NOTHING.union(*(one.dates for one in parts)),
        _NOTHING.union(*(one.divisors for one in parts)),
        any(one.unknown for one in parts),
    )


def computed_names(template: nodes.Template) -> Computed:
    """Return the computed names of a parsed template whose operators are not rewritten yet."""
    walk = _Walk()
    walk.visit(template, nested=False)
    numbers, operands, dates, divisors = map(frozenset, (walk.numbers, walk.operands, walk.dates, walk.divisors))
    return Computed(numbers, operands, dates, divisors, walk.unknown)


class _Walk:
    def __init__(self) -> None:
        self.numbers: set[str] = set()
        self.operands: set[str] = set()
        self.dates: set[str] = set()
        self.divisors: set[str] = set()
        self.unknown = False
        # the source names of each name that was set; empty for a computed number
        self._made_of: dict[str, _Names] = {}

    def visit(self, node: nodes.Node, *, nested: bool) -> None:
        outside = self._made_of
        if isinstance(node, nodes.For):  # names set within a loop end with it
            self._made_of = dict(outside)
            self._assign(node.target, self._sources(node.iter), nested=False)
        self._operand(node)
        for child in node.iter_child_nodes():
            self.visit(child, nested=nested or isinstance(node, (nodes.If, nodes.For)))
        if isinstance(node, nodes.For):
            self._made_of = outside
        if isinstance(node, nodes.Assign):
            self._assign(node.target, self._sources(node.node), nested=nested)

    def _operand(self, node: nodes.Node) -> None:
        """Record the names that a node needs as a number or a date."""
        if isinstance(node, (nodes.Filter, nodes.Test)) and node.node is not None:
            if isinstance(node, nodes.Filter) and node.name == "date":
                self.dates |= self._sources(node.node)
            elif node.name in (_NUMERIC if isinstance(node, nodes.Filter) else _NUMERIC_TESTS):
                self.numbers |= self._sources(node.node)
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):  # range
            self._note(self.numbers, node.args)
        elif isinstance(node, (nodes.Neg, nodes.Pos)):
            self.operands |= self._sources(node.node)
        elif isinstance(node, nodes.Compare) and any(one.op in _ORDERINGS for one in node.ops):
            self._note(self.operands, [node.expr, *(one.expr for one in node.ops)])
        elif isinstance(node, _ARITHMETIC):
            self._note(self.operands, [node.left, node.right])
            if isinstance(node, _DIVISIONS) and not isinstance(node.right, nodes.Const):
                self._divisor(node.right)

    def _note(self, names: set[str], given: Iterable[nodes.Node]) -> None:
        for node in given:
            names |= self._sources(node)

    def _divisor(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Name) and node.name not in self._made_of:
            self.divisors.add(node.name)
        else:
            self.unknown = True

    def _sources(self, node: nodes.Node) -> _Names:
        """Return the names whose values an expression may have; empty if its result is a number anyway."""
        if isinstance(node, nodes.Name):
            return self._made_of.get(node.name, frozenset({node.name}) - {_LOOP})
        computed = isinstance(node, nodes.Filter) and node.name in _NUMERIC | {"length"}
        computed = computed or (isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name))  # range
        if computed or isinstance(node, (*_ARITHMETIC, nodes.Neg, nodes.Pos, nodes.Compare, nodes.Test, nodes.Not)):
            return _NOTHING
        children = list(node.iter_child_nodes())
        if isinstance(node, nodes.CondExpr):
            children = [child for child in children if child is not node.test]
        return _NOTHING.union(*map(self._sources, children))

    def _assign(self, target: nodes.Node, made_of: _Names, *, nested: bool) -> None:
        names = [target] if isinstance(target, nodes.Name) else list(target.find_all(nodes.Name))
        for one in names:
            before = self._sources(one) if nested else _NOTHING
            self._made_of[one.name] = made_of | before
