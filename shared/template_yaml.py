"""Templates as YAML: texts, whole numbers, exact decimals and booleans, without YAML's surprising conversions.

YAML 1.1 would read 010 as 8, 12:30 as 750 and 2026-02-01 as a date, and 12.50 as a float that prints 12.5.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from shared.numbers import Number

_INT, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with simpler rules for numbers."""


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Number:
    return Number(loader.construct_scalar(node))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_INT, _FLOAT, _TIMESTAMP}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"-?(?:0|[1-9][0-9]*)\Z"), list("-0123456789"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+\Z"), list("-0123456789"))
_Loader.add_constructor(_FLOAT, _number)


def load_template(content: bytes | str) -> Any:
    """Return the content of a YAML document; raises yaml.YAMLError, and ValueError for a number that is too large."""
    return yaml.load(content, Loader=_Loader)  # noqa: S506 - a safe loader
