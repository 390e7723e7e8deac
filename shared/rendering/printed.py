"""Which names a template prints without a guard: those that a message cannot do without.

A guard is a condition that asks for the name (`{% if name %}`, `… if name else …`), an alternative
(`name or 'you'`), or the filter `default`. A name that is `set` from others is printed where it is printed itself.
"""

from __future__ import annotations

from jinja2 import nodes

_Names = frozenset[str]
_NOTHING: _Names = frozenset()
# these print yes or no, not the name
_ANSWERS = (nodes.Compare, nodes.Test, nodes.Not)


def printed_names(template: nodes.Template) -> _Names:
    """Return the names that a parsed template, its operators not yet rewritten, prints unguarded."""
    found = _Printed()
    found.statements(template.body, _NOTHING)
    return frozenset(found.names)


class _Printed:
    def __init__(self) -> None:
        self.names: set[str] = set()
        # what a name that was set prints, and all that it was made of
        self._prints: dict[str, _Names] = {}
        self._made_of: dict[str, _Names] = {}

    def statements(self, body: list[nodes.Node], guarded: _Names) -> None:
        for node in body:
            self._statement(node, guarded)

    def _statement(self, node: nodes.Node, guarded: _Names) -> None:
        if isinstance(node, nodes.Output):
            for expression in node.nodes:
                self.names |= self._unguarded(expression, guarded)
        elif isinstance(node, nodes.If):
            inside = guarded | self._all_names(node.test)
            for branch in (node.body, node.elif_, node.else_):
                self.statements(list(branch), inside)
        elif isinstance(node, nodes.For):
            inside = guarded | self._all_names(node.iter)
            self.statements(node.body, inside)
            self.statements(node.else_, inside)
        elif isinstance(node, nodes.Assign):
            prints, made_of = self._unguarded(node.node, guarded), self._all_names(node.node)
            for name in _names_in(node.target):
                self._prints[name], self._made_of[name] = prints, made_of

    def _unguarded(self, node: nodes.Node, guarded: _Names) -> _Names:
        """Return the names that an expression prints."""
        if isinstance(node, nodes.Name):
            return _NOTHING if node.name in guarded else self._prints.get(node.name, frozenset({node.name})) - guarded
        if isinstance(node, _ANSWERS):
            return _NOTHING
        inside = guarded
        children = list(node.iter_child_nodes())
        if isinstance(node, nodes.CondExpr):
            inside = guarded | self._all_names(node.test)
            children = [child for child in children if child is not node.test]
        elif isinstance(node, (nodes.Or, nodes.And)):
            inside = guarded | self._all_names(node)
        elif isinstance(node, nodes.Filter) and node.name in {"default", "d"} and node.node is not None:
            inside = guarded | self._all_names(node.node)
        return _NOTHING.union(*(self._unguarded(child, inside) for child in children))

    def _all_names(self, node: nodes.Node) -> _Names:
        direct = _names_in(node)
        return direct.union(*(self._made_of.get(name, _NOTHING) for name in direct))


def _names_in(node: nodes.Node) -> _Names:
    own = {node.name} if isinstance(node, nodes.Name) else set()
    return frozenset(own | {one.name for one in node.find_all(nodes.Name)})
