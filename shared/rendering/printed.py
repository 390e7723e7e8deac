"""Printed names: the variables that a template prints without a guard, so that each message needs a value for them.

A guard is a condition on the name (`{% if name %}`, `… if name else …`), an alternative (`name or 'you'`), or the
filter `default`. Printing a name that was `set` from others prints those.
"""

from __future__ import annotations

from jinja2 import nodes

_Names = frozenset[str]
_NOTHING: _Names = frozenset()
# these print true or false, not the name
_ANSWERS = (nodes.Compare, nodes.Test, nodes.Not)


def printed_names(template: nodes.Template) -> _Names:
    """Return the names that a parsed template prints unguarded; its operators must not be rewritten yet."""
    found = _Printed()
    found.statements(template.body, _NOTHING)
    return frozenset(found.names)


class _Printed:
    def __init__(self) -> None:
        self.names: set[str] = set()
        # for each name that was set: the names that it prints, and those that a condition on it checks
        self._prints: dict[str, _Names] = {}
        self._asks: dict[str, _Names] = {}

    def statements(self, body: list[nodes.Node], guarded: _Names) -> None:
        for node in body:
            self._statement(node, guarded)

    def _statement(self, node: nodes.Node, guarded: _Names) -> None:
        if isinstance(node, nodes.Output):
            for expression in node.nodes:
                self.names |= self._unguarded(expression, guarded)
        elif isinstance(node, nodes.If):
            self._branches(node, guarded)
        elif isinstance(node, nodes.For):
            self._loop(node, guarded)
        elif isinstance(node, nodes.Assign):
            self._set(node.target, self._unguarded(node.node, guarded), self._asked(node.node))

    def _branches(self, node: nodes.If, guarded: _Names) -> None:
        """Walk the branches of a condition; a name that they set prints the names from any of them."""
        tests = [node.test, *(one.test for one in node.elif_)]
        inside = guarded.union(*map(self._asked, tests))
        before, outcomes = self._prints, []
        for branch in (node.body, *(one.body for one in node.elif_), node.else_):
            self._prints = dict(before)
            self.statements(branch, inside)
            outcomes.append(self._prints)
        self._prints = {
            name: _NOTHING.union(*(one.get(name, frozenset({name}) - inside) for one in outcomes))
            for name in _NOTHING.union(*outcomes)
        }

    def _loop(self, node: nodes.For, guarded: _Names) -> None:
        # `''.split(' ')` and `[name]` have an iteration even if the name is empty
        inside = guarded | self._asked(node.iter) if isinstance(node.iter, nodes.Name) else guarded
        before, asked = dict(self._prints), dict(self._asks)
        self._set(node.target, self._unguarded(node.iter, guarded), self._asked(node.iter))
        if node.test is not None:
            inside |= self._asked(node.test)
        self.statements(node.body, inside)
        self._prints, self._asks = before, asked
        self.statements(node.else_, guarded)

    def _set(self, target: nodes.Node, prints: _Names, asks: _Names) -> None:
        for name in _names_in(target):
            self._prints[name], self._asks[name] = prints, asks

    def _unguarded(self, node: nodes.Node, guarded: _Names) -> _Names:
        """Return the names that an expression prints unguarded."""
        if isinstance(node, nodes.Name):
            return _NOTHING if node.name in guarded else self._prints.get(node.name, frozenset({node.name})) - guarded
        if isinstance(node, _ANSWERS):
            return _NOTHING
        inside = guarded
        children = list(node.iter_child_nodes())
        if isinstance(node, nodes.CondExpr):
            inside = guarded | self._asked(node.test)
            children = [child for child in children if child is not node.test]
        elif isinstance(node, (nodes.Or, nodes.And)):
            inside = guarded | self._asked(node)
        elif isinstance(node, nodes.Filter) and node.name in {"default", "d"} and node.node is not None:
            inside = guarded | self._asked(node.node)
        return _NOTHING.union(*(self._unguarded(child, inside) for child in children))

    def _asked(self, node: nodes.Node) -> _Names:
        """Return the names that a condition checks, or that an alternative replaces.

        `'Dear ' ~ name` checks none: it is never empty.
        """
        if isinstance(node, (nodes.Concat, nodes.Add)) and any(
            one.value not in ("", None) for one in node.iter_child_nodes() if isinstance(one, nodes.Const)
        ):
            return _NOTHING
        own: _Names = _NOTHING
        if isinstance(node, nodes.Name) and self._asks.get(node.name) != _NOTHING:
            own = frozenset({node.name}) | self._asks.get(node.name, _NOTHING)
        return own.union(*(self._asked(child) for child in node.iter_child_nodes()))


def _names_in(node: nodes.Node) -> _Names:
    own = {node.name} if isinstance(node, nodes.Name) else set()
    return frozenset(own | {one.name for one in node.find_all(nodes.Name)})
