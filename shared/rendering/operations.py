"""The operators of the template language, as functions that charge for their work.

`syntax` rewrites each operator of a parsed template into a call of one of these functions, under a name that no
template can write. Operations that Python does not bound (repeating a text, powers, `%` formatting, comparing nested
lists) are refused or capped here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, DecimalException
from typing import Any

from jinja2.runtime import LoopContext
from markupsafe import Markup

from shared.numbers import Number
from shared.rendering.budget import charge, charge_text
from shared.rendering.errors import RenderError
from shared.rendering.values import DIVISION, EXACT, Exact, Scalar, demand, number, scalar, text

MAX_RANGE = 10_000
Operation = Callable[..., Any]


def concat(*values: object) -> str:
    """Join values as texts (`~`); next to html, values that are not html are escaped."""
    pieces = [text(value) for value in values]
    charge_text(sum(map(len, pieces)))
    if any(isinstance(piece, Markup) for piece in pieces):
        return Markup("").join(pieces)
    return "".join(pieces)


def add(left: object, right: object) -> Scalar:
    """Add two numbers, or join two texts."""
    if isinstance(left, str) and isinstance(right, str):
        return concat(left, right)
    return _sum(left, right)


def _arithmetic(value: object) -> Exact:
    # a text of digits is not converted silently: "1" + 1 is more often a mistake than a sum
    if isinstance(value, str):
        raise RenderError("a text cannot be used as a number here (use the filter int or float)")
    return number(value)


def _number_operation(
    whole: Callable[[int, int], Exact], exact: Callable[[Decimal, Decimal], Decimal]
) -> Callable[[object, object], Exact]:
    """Return an operation from its implementations for two whole numbers and for two decimals."""

    def operation(left: object, right: object) -> Exact:
        charge(1)
        one, other = _arithmetic(left), _arithmetic(right)
        try:
            if isinstance(one, int) and isinstance(other, int):
                return number(whole(one, other))
            return number(exact(Decimal(one), Decimal(other)))
        except ZeroDivisionError:
            raise RenderError("division by zero") from None
        except DecimalException:
            raise RenderError("a number is too large") from None

    return operation


def _quotient(left: int, right: int) -> Exact:
    return left // right if left % right == 0 else DIVISION.divide(Decimal(left), Decimal(right))


def _floor(left: Decimal, right: Decimal) -> Decimal:
    cut = EXACT.divide_int(left, right)
    towards_zero = EXACT.remainder(left, right) and (left < 0) != (right < 0)
    return EXACT.subtract(cut, Decimal(1)) if towards_zero else cut


def modulo(left: Decimal, right: Decimal) -> Decimal:
    """Return the remainder with the sign of the divisor, as for whole numbers."""
    rest = EXACT.remainder(left, right)
    return EXACT.add(rest, right) if rest and (rest < 0) != (right < 0) else rest


_sum = _number_operation(operator.add, EXACT.add)


def list_of(*items: object) -> list[Scalar]:
    """Return a list of single values; nested lists could be doubled without end."""
    charge(1 + len(items))
    return [scalar(item) for item in items]


def slice_of(value: object, start: object, stop: object, step: object) -> object:
    """Return a part of a text or a list."""
    demand(value)
    if not isinstance(value, (str, list, tuple)):
        raise RenderError("only a text or a list can be sliced")
    bounds = [None if bound is None else int(number(bound)) for bound in (start, stop, step)]
    if bounds[2] == 0:
        raise RenderError("the step of a slice must not be zero")
    charge(1 + (len(value) >> 6 if isinstance(value, str) else len(value)))
    return value[slice(*bounds)]


def loop_over(value: object, weight: int) -> object:
    """Charge for all iterations of a loop before the first one; `weight` is the cost of one."""
    demand(value)
    if not isinstance(value, (str, Sequence, Mapping, range)):
        raise RenderError("a loop needs a list")
    charge(1 + len(value) * weight)
    return value


def range_of(*bounds: object) -> range:
    """Return a range of at most 10,000 numbers."""
    try:
        numbers = range(*(int(number(bound)) for bound in bounds))
    except (TypeError, ValueError, OverflowError):
        raise RenderError("range needs one to three whole numbers, and a step other than zero") from None
    if not -(2**62) < numbers.start < 2**62 or not -(2**62) < numbers.stop < 2**62 or len(numbers) > MAX_RANGE:
        raise RenderError(f"a range has more than {MAX_RANGE} numbers")
    return numbers


def cycle(loop: object, *items: object) -> object:
    """Return the item for this iteration (`loop.cycle('odd', 'even')`)."""
    if not isinstance(loop, LoopContext) or not items:
        raise RenderError("cycle needs a loop and at least one item")
    charge(1)
    return items[loop.index0 % len(items)]


def _comparable(value: object) -> object:
    demand(value)
    if isinstance(value, str):
        charge_text(len(value))
    return value


def equal(left: object, right: object) -> bool:
    """Compare two values; at most one may be a container."""
    charge(1)
    left, right = _comparable(left), _comparable(right)
    containers = sum(not isinstance(side, (str, int, float, Decimal)) and side is not None for side in (left, right))
    if containers > 1:
        raise RenderError("two lists or objects cannot be compared")
    return bool(left == right)


def not_equal(left: object, right: object) -> bool:
    """Compare two values; at most one may be a container."""
    return not equal(left, right)


def _ordering(apply: Callable[[Any, Any], bool]) -> Operation:
    def operation(left: object, right: object) -> bool:
        charge(1)
        left, right = _comparable(left), _comparable(right)
        if isinstance(left, str) and isinstance(right, str):
            return apply(left, right)
        return apply(_arithmetic(left), _arithmetic(right))

    return operation


def contains(needle: object, haystack: object) -> bool:
    """Search for a text in a text, or for a single value in a list or among an object's keys."""
    wanted = scalar(_comparable(needle))
    demand(haystack)
    if isinstance(haystack, str):
        charge_text(len(haystack) * 4)
        return text(wanted) in haystack
    if isinstance(haystack, (list, tuple, range, Mapping)):
        charge(1 + len(haystack))
        return wanted in haystack
    raise RenderError("`in` needs a text, a list or an object")


def contains_not(needle: object, haystack: object) -> bool:
    """Negate `contains`."""
    return not contains(needle, haystack)


def negative(value: object) -> Exact:
    """Return the negative of a number."""
    exact = _arithmetic(value)
    return -exact if isinstance(exact, int) else exact.copy_negate()


# the asterisk keeps these names out of any template's reach
OPERATIONS: dict[str, Operation] = {
    "*concat": concat,
    "*add": add,
    "*sub": _number_operation(operator.sub, EXACT.subtract),
    "*mul": _number_operation(operator.mul, EXACT.multiply),
    "*div": _number_operation(_quotient, DIVISION.divide),
    "*floordiv": _number_operation(operator.floordiv, _floor),
    "*mod": _number_operation(operator.mod, modulo),
    "*neg": negative,
    "*pos": _arithmetic,
    "*exact": Number,
    "*list": list_of,
    "*slice": slice_of,
    "*loop": loop_over,
    "*range": range_of,
    "*cycle": cycle,
    "*eq": equal,
    "*ne": not_equal,
    "*lt": _ordering(operator.lt),
    "*lteq": _ordering(operator.le),
    "*gt": _ordering(operator.gt),
    "*gteq": _ordering(operator.ge),
    "*in": contains,
    "*notin": contains_not,
}
