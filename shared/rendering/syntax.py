"""The syntax of templates: a parsed template is checked against an allowlist, and its operators are rewritten.

Allowed are text, `{{ … }}`, `if`, `for` and `set`, with literals, operators, fields, and the filters, tests and methods
of `filters`. Macros, other calls, includes, inheritance and everything else that jinja2 has or will have are refused,
so recursion is impossible. Every operator becomes a function of `operations`, which charges for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jinja2 import nodes

from shared.nearest import did_you_mean
from shared.numbers import Number
from shared.rendering.budget import MAX_DEPTH
from shared.rendering.errors import RenderError, TagError
from shared.rendering.filters import FILTERS, LOCALISED, METHODS, TESTS

_NodeT = TypeVar("_NodeT", bound=nodes.Node)

# names with a meaning in jinja2
RESERVED = frozenset({"self", "super", "caller", "varargs", "kwargs", "namespace", "cycler", "joiner", "lipsum"})
# and those that do not mean a variable everywhere: `not` begins a negation, and inside a loop `loop` is the loop. Other
# words of the language (`if`, `for`, `in`, `and` …) mean a variable wherever a value can be.
NOT_NAMES = RESERVED | {"true", "True", "false", "False", "none", "None", "not", "loop"}

_BINARY: dict[type[nodes.Node], str] = {
    nodes.Add: "*add",
    nodes.Sub: "*sub",
    nodes.Mul: "*mul",
    nodes.Div: "*div",
    nodes.FloorDiv: "*floordiv",
    nodes.Mod: "*mod",
}
_UNARY: dict[type[nodes.Node], str] = {nodes.Neg: "*neg", nodes.Pos: "*pos"}
_PLAIN = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.Assign, nodes.And, nodes.Or, nodes.Not)


def check_and_rewrite(template: nodes.Template, language: str = "") -> nodes.Template:
    """Return the template with every operator replaced; raises TagError for anything that is not allowed.

    `language` is the default language of the filters that take one.
    """
    rewriter = _Rewriter(language)
    rewritten: nodes.Template = rewriter.visit(template, 0)
    for loop in rewriter.loops:
        cost = sum(map(_weight, loop.body))
        loop.iter = _call("*loop", loop.iter, nodes.Const(1 + cost, lineno=loop.lineno))
    return rewritten


def _weight(node: nodes.Node) -> int:
    own = 1 + (len(node.data) >> 4) if isinstance(node, nodes.TemplateData) else 1
    return own + sum(map(_weight, node.iter_child_nodes()))


def _call(name: str, first: Any, *rest: Any) -> nodes.Filter:
    return nodes.Filter(first, name, list(rest), [], None, None, lineno=first.lineno)


def _refuse(node: nodes.Node, what: str) -> RenderError:
    return TagError(f"{what} is not allowed in a template", node.lineno or 0)


def _checked(node: nodes.Node, known: Mapping[str, Callable[..., Any]], what: str, name: str) -> set[str]:
    """Check a call of a filter, test or method against the known functions; return the names of its arguments."""
    function = known.get(name)
    if function is None:
        near = did_you_mean(name, known) or f"; known are {', '.join(known)}"
        raise TagError(f"there is no {what} {name!r}{near}", node.lineno or 0)
    arguments = node.args  # type: ignore[attr-defined]  # Filter, Test and Call have these
    keywords = {pair.key: None for pair in node.kwargs}  # type: ignore[attr-defined]
    if node.dyn_args is not None or node.dyn_kwargs is not None:  # type: ignore[attr-defined]
        raise _refuse(node, "an unpacked argument (*)")
    try:
        return set(inspect.signature(function).bind(None, *arguments, **keywords).arguments)
    except TypeError as error:
        raise TagError(f"{what} {name!r}: {error}", node.lineno or 0) from None


class _Rewriter:
    def __init__(self, language: str) -> None:
        self._language = language
        self.loops: list[nodes.For] = []
        self._visitors: dict[type[nodes.Node], Callable[[Any, int], nodes.Node]] = {
            nodes.Name: self._name,
            nodes.Const: self._const,
            nodes.For: self._for,
            nodes.Filter: self._filter,
            nodes.Test: self._test,
            nodes.Call: self._called,
            nodes.Getattr: self._getattr,
            nodes.Getitem: self._getitem,
            nodes.Concat: self._concat,
            nodes.Compare: self._compare,
            nodes.CondExpr: self._conditional,
            nodes.List: self._list,
            nodes.Tuple: self._tuple,
            nodes.Keyword: self._children,
        }
        self._visitors |= dict.fromkeys(_PLAIN, self._children)
        self._visitors |= dict.fromkeys(_BINARY, self._binary)
        self._visitors |= dict.fromkeys(_UNARY, self._unary)

    def visit(self, node: _NodeT, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise TagError("the template is nested too deeply", node.lineno or 0)
        visitor = self._visitors.get(type(node))
        if visitor is None:
            raise _refuse(node, f"`{type(node).__name__.lower()}`")
        return visitor(node, depth + 1)

    def _children(self, node: nodes.Node, depth: int) -> nodes.Node:
        for field, value in list(node.iter_fields()):
            if isinstance(value, list):
                changed = [self.visit(item, depth) if isinstance(item, nodes.Node) else item for item in value]
                setattr(node, field, changed)
            elif isinstance(value, nodes.Node):
                setattr(node, field, self.visit(value, depth))
        return node

    def _name(self, node: nodes.Name, _depth: int) -> nodes.Node:
        if node.name in RESERVED or node.name.startswith("_"):
            raise _refuse(node, f"the name {node.name!r}")
        if not node.name.isascii():
            # jinja2 normalises names (NFKC), so two spellings could be one variable
            raise _refuse(node, "a name with characters outside ASCII")
        return node

    def _const(self, node: nodes.Const, _depth: int) -> nodes.Node:
        if isinstance(node.value, str):
            try:
                node.value.encode()
            except UnicodeEncodeError:
                raise _refuse(node, "half of a surrogate pair") from None
        if isinstance(node.value, Number):
            return _call("*exact", nodes.Const(node.value.written, lineno=node.lineno))
        return node

    def _for(self, node: nodes.For, depth: int) -> nodes.Node:
        if node.recursive:
            raise _refuse(node, "a recursive loop")
        self._children(node, depth)
        self.loops.append(node)
        return node

    def _filter(self, node: nodes.Filter, depth: int) -> nodes.Node:
        bound = _checked(node, FILTERS, "filter", node.name)
        if node.name in LOCALISED and "language" not in bound:
            language = nodes.Keyword("language", nodes.Const(self._language), lineno=node.lineno)
            node.kwargs.append(language)  # type: ignore[arg-type]  # as the parser puts them there
        return self._children(node, depth)

    def _test(self, node: nodes.Test, depth: int) -> nodes.Node:
        _checked(node, TESTS, "test", node.name)
        return self._children(node, depth)

    def _called(self, node: nodes.Call, depth: int) -> nodes.Node:
        callee = node.node
        if isinstance(callee, nodes.Name) and callee.name == "range" and node.args and not node.kwargs:
            arguments = [self.visit(argument, depth) for argument in node.args]
            return _call("*range", *arguments)
        if not isinstance(callee, nodes.Getattr):
            raise _refuse(node, "a call other than of a method, loop.cycle or range")
        self._children(node, depth) if not node.kwargs else self._no_keywords(node)
        subject: nodes.Expr = node.node.node  # type: ignore[attr-defined]  # a Getattr still
        if isinstance(subject, nodes.Name) and subject.name == "loop" and callee.attr == "cycle":
            return _call("*cycle", subject, *node.args)
        _checked(node, METHODS, "method", callee.attr)
        return _call(f"*.{callee.attr}", subject, *node.args)

    def _no_keywords(self, node: nodes.Call) -> None:
        raise _refuse(node, "a keyword argument of a method")

    def _getattr(self, node: nodes.Getattr, depth: int) -> nodes.Node:
        if node.attr.startswith("_"):
            raise _refuse(node, f"the field {node.attr!r}")
        return self._children(node, depth)

    def _getitem(self, node: nodes.Getitem, depth: int) -> nodes.Node:
        if not isinstance(node.arg, nodes.Slice):
            return self._children(node, depth)
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        written = [bound or nodes.Const(None, lineno=node.lineno) for bound in bounds]
        return _call("*slice", self.visit(node.node, depth), *(self.visit(bound, depth) for bound in written))

    def _concat(self, node: nodes.Concat, depth: int) -> nodes.Node:
        return _call("*concat", *(self.visit(part, depth) for part in node.nodes))

    def _compare(self, node: nodes.Compare, depth: int) -> nodes.Node:
        if len(node.ops) != 1:
            raise _refuse(node, "a chain of comparisons (write `a < b and b < c`)")
        return _call(f"*{node.ops[0].op}", self.visit(node.expr, depth), self.visit(node.ops[0].expr, depth))

    def _conditional(self, node: nodes.CondExpr, depth: int) -> nodes.Node:
        node.expr2 = node.expr2 or nodes.Const(None, lineno=node.lineno)
        return self._children(node, depth)

    def _list(self, node: nodes.List | nodes.Tuple, depth: int) -> nodes.Node:
        items = [self.visit(item, depth) for item in node.items]
        if not items:
            return nodes.Const((), lineno=node.lineno)
        return _call("*list", *items)

    def _tuple(self, node: nodes.Tuple, depth: int) -> nodes.Node:
        return self._children(node, depth) if node.ctx == "store" else self._list(node, depth)

    def _binary(self, node: nodes.BinExpr, depth: int) -> nodes.Node:
        return _call(_BINARY[type(node)], self.visit(node.left, depth), self.visit(node.right, depth))

    def _unary(self, node: nodes.UnaryExpr, depth: int) -> nodes.Node:
        return _call(_UNARY[type(node)], self.visit(node.node, depth))
