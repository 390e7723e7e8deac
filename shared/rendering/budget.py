"""What a template may use: fixed caps, and the meter that stops a render that exceeds its budget.

Time is bounded by counting and not by a clock, so that the same template with the same values always has the same
outcome. Each operation costs one step, and one more per 64 characters that it processes. A loop is charged for all its
iterations before the first one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from shared.rendering.errors import RenderError

T = TypeVar("T")

MAX_SOURCE_CHARS = 256 * 1024
MAX_TOKENS = 20_000
MAX_DEPTH = 40
# a full budget takes a few tens of milliseconds; a newsletter with 50 rows uses about 2,000 steps
MAX_STEPS = 100_000
MAX_OUTPUT_CHARS = 1024 * 1024
# RFC 5322, section 2.1.1: a line has at most 998 characters
MAX_SUBJECT_CHARS = 998
_EXHAUSTED = "the template takes too much work: its loops or texts are too long"


class _Meter(threading.local):
    left = MAX_STEPS


_meter = _Meter()


def refill() -> None:
    """Reset this thread's budget; called before each render."""
    _meter.left = MAX_STEPS


def charge(steps: int) -> None:
    """Take steps from the budget; raises RenderError if it is exhausted."""
    left = _meter.left = _meter.left - steps
    if left < 0:
        raise RenderError(_EXHAUSTED)


def charge_text(chars: int) -> None:
    """Charge one operation on a text of `chars` characters; raises RenderError if the text exceeds the output's cap."""
    if chars > MAX_OUTPUT_CHARS:
        raise RenderError(f"a text becomes longer than {MAX_OUTPUT_CHARS} characters")
    left = _meter.left = _meter.left - 1 - (chars >> 6)
    if left < 0:
        raise RenderError(_EXHAUSTED)


def charged_by(work: Callable[[], T]) -> tuple[T, int]:
    """Do some work without charging for it; return its result and the steps that it costs."""
    before = _meter.left
    result = work()
    cost, _meter.left = before - _meter.left, before
    return result, cost
