"""Raises an exception at one line of Kurir's code, the first time it is reached after a provider's acceptance.

`points` of a first, undisturbed run are the lines that a worker and the settler run between the acceptance and the end
of the job; each can then be struck in its own run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from shared.sending.attempt import Attempt
from shared.sending.worker import Worker

_ROOT = Path(__file__).parents[3]
_ROOMS = (str(_ROOT / "services"), str(_ROOT / "shared"))
_TASKS = frozenset({"Worker.run", "Settler.run"})
# the endless loops, and the wait for the next job: no job is under way there
_OUTSIDE = frozenset({"Worker.run", "Settler.run", "Holdings.next_begun"}) | frozenset(
    f"ReadyQueue.{name}" for name in ("get_one_that_may_wait", "qsize", "empty", "get", "get_nowait")
)

Point = tuple[str, int]


@dataclass
class Mutation:
    """The lines recorded or struck in one run; `struck` is whether the point was reached."""

    point: Point | None = None
    error: type[BaseException] = ZeroDivisionError
    heard: bool = False
    struck: bool = False
    points: list[Point] = field(default_factory=list)

    def trace(self, frame: FrameType, _event: str, _arg: object) -> Any:
        """Trace Kurir's own code; Python calls this for each function entered."""
        name = frame.f_code.co_filename
        if not name.startswith(_ROOMS) or frame.f_code.co_qualname in _OUTSIDE or not _of_the_job():
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event != "line" or not self.heard:
            return self._line
        point = (frame.f_code.co_filename.removeprefix(str(_ROOT)), frame.f_lineno)
        if self.point is None:
            self.points.append(point)
        elif point == self.point and not self.struck:
            self.struck = True
            raise self.error("a mutation")  # Python ends the tracing with it
        return self._line


def _of_the_job() -> bool:
    task = asyncio.current_task()
    coroutine: Any = task.get_coro() if task is not None else None
    return coroutine is not None and coroutine.__qualname__ in _TASKS


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """Trace while the block runs, from an acceptance on, until the same worker starts to hand over another message."""
    accepted, started, before = Attempt.accepted, Attempt.start, sys.gettrace()
    attempt = Worker._attempt

    def hear(begun: Attempt[Any], message_id: str, words: str) -> None:
        accepted(begun, message_id, words)
        mutation.heard = True

    async def start(begun: Attempt[Any]) -> None:
        await started(begun)
        mutation.heard = False

    async def begin(worker: Worker[Any], *job: Any) -> None:
        mutation.heard = False
        await attempt(worker, *job)

    # lines count from the acceptance on; the failure of a later hand-over has its own consequences
    with (
        patch.object(Attempt, "accepted", hear),
        patch.object(Attempt, "start", start),
        patch.object(Worker, "_attempt", begin),
    ):
        sys.settrace(mutation.trace)
        try:
            yield
        finally:
            sys.settrace(before)
