"""Templates as YAML: texts, whole numbers, exact decimals and booleans, without YAML's surprising conversions.

YAML 1.1 would read 010 as 8, 12:30 as 750 and 2026-02-01 as a date, and 12.50 as a float that prints 12.5. What JSON
cannot hold is refused: other types, names that are no texts or come twice, values within themselves, and aliases
without bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from shared.foreign_text import valid_value
from shared.numbers import MAX_CHARS, Number

_NULL, _BOOL, _INT, _FLOAT, _STR, _SEQ, _MAP, _MERGE, _TIMESTAMP = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge", "timestamp")
)
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
# nested aliases would make any number of values of a short file
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with simpler rules for numbers, and with JSON's types only."""


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    written = str(loader.construct_scalar(node))
    if not _WHOLE.match(written) or len(written) > MAX_CHARS:
        raise ConstructorError(None, None, f"{written[:MAX_CHARS]!r} cannot be a whole number", node.start_mark)
    return int(written)


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Number:
    return Number(loader.construct_scalar(node))


def _boolean(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    written = str(loader.construct_scalar(node))
    if written.lower() not in loader.bool_values:
        raise ConstructorError(None, None, f"{written[:MAX_CHARS]!r} is neither true nor false", node.start_mark)
    return bool(loader.bool_values[written.lower()])


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_INT, _FLOAT, _TIMESTAMP}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, _WHOLE, list("-0123456789"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+\Z"), list("-0123456789"))
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag in {_NULL, _STR, _SEQ, _MAP, None}
}
_Loader.add_constructor(_INT, _integer)
_Loader.add_constructor(_FLOAT, _decimal)
_Loader.add_constructor(_BOOL, _boolean)


def load_template(content: bytes | str) -> Any:
    """Return the content of a YAML document as JSON could hold it; raises yaml.YAMLError and ValueError."""
    loader = _Loader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > _MOST_VALUES:
            raise ValueError("it has too many values, or its aliases repeat too many")
        return valid_value(loader.construct_document(node))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """Return the number of values of a node, aliases counted each time; raises yaml.YAMLError for what JSON lacks."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in counted:
        if not counted[id(node)]:
            raise ConstructorError(None, None, "an alias is within what it stands for", node.start_mark)
        return counted[id(node)]
    counted[id(node)] = 0
    inner = list(node.value)
    if isinstance(node, yaml.MappingNode):
        _check_names([name for name, _ in node.value])
        inner = [value for _, value in node.value]
    counted[id(node)] = 1 + sum(_count(one, counted) for one in inner)
    return counted[id(node)]


def _check_names(names: Iterable[yaml.Node]) -> None:
    """Raise yaml.YAMLError for a name that is no text, or that another value has already (YAML 1.1, 3.2.1.3)."""
    seen: set[str] = set()
    for name in names:
        if name.tag not in {_STR, _MERGE}:
            words = 'a name must be a text: put it, or the whole value as "{{ name }}", in quotes'
            raise ConstructorError(None, None, words, name.start_mark)
        if name.tag == _STR and name.value in seen:
            words = f"{name.value[:MAX_CHARS]!r} is given twice: remove one of the two"
            raise ConstructorError(None, None, words, name.start_mark)
        seen.add(name.value)
