"""The second pass of a blast: what its lines, one for each partition of a channel, tell each other."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from services.ingest.blasts.duplicates import Places
from services.ingest.blasts.enqueueing import Enqueueing
from services.ingest.blasts.recipients import Accepted
from shared.blasts import Blast
from shared.clock import SystemClock
from shared.queue.producer import Chunk, Enqueued
from shared.templates import Template

BLAST = Blast(
    "b", Template("t", "T", ["email"]), ["email", "whatsapp"], "bulk", 0, {"email": 1, "whatsapp": 1}, 1
)  # fmt: skip


class Cancelled:
    """A queue in which a blast was cancelled between the chunks of its two lines; the first answers last."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._other = asyncio.Event()

    async def enqueue(self, chunk: Chunk) -> Enqueued:
        self.seen.append(chunk.channel)
        if chunk.channel == "whatsapp":
            self._other.set()
            return Enqueued(0, 0, cancelled=True)
        await self._other.wait()
        await asyncio.sleep(0)
        return Enqueued(1, 1, cancelled=False)

    async def confirm(self, _blast: Blast) -> bool:
        return False  # what is missing will never come

    async def create(self, _blast: Blast) -> bool:
        return False

    async def watermark(self, *_place: Any) -> int:
        return 0


async def test_cancellation_that_one_line_has_found_is_not_forgotten() -> None:
    """An answer of another line, given before the cancellation, may come later: the blast ends here all the same."""
    queue: Any = Cancelled()
    enqueueing = Enqueueing(SimpleNamespace(producer=queue, blasts=queue), SystemClock(), BLAST)  # type: ignore[arg-type]
    people = [[Accepted(0, "A", ["a@example.com", "+15550001"])]]
    await enqueueing.run(lambda: people, Places(), fresh=True)
    assert sorted(queue.seen) == ["email", "whatsapp"]
