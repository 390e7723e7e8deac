"""Runs of refusals: a server that refuses all recipients alike, counted over all senders and restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from shared.addresses import identity
from shared.queue.partitions import Partition

OPEN_MS = 3600 * 1000
STOPPED_MS = 24 * 3600 * 1000

Word = Literal["hold", "stop", "back", "aside", "final"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A recipient that a server refused permanently; `suppression` is the reason to suppress it, "" for none.

    `alike` is what equal refusals have in common; `reason` is why the channel is paused if they make a run.
    """

    server: str
    alike: str
    address: str
    suppression: str
    reason: str


class Refusals:
    """The runs of refusals of a partition, in `C:refused:<server>`; `name` must be unique to the process."""

    def __init__(self, partition: Partition, name: str) -> None:
        self._partition = partition
        self._pauses = partition.numbered(name, "refusals")

    async def count(self, refused: Refused, most: int, *, alone: bool) -> Word:
        """Count a refusal; the `most`th of a run pauses the channel where the server is `alone`."""
        return await self._call(refused, most, alone=alone, patience_ms=0)

    async def check(self, refused: Refused, patience_s: float) -> Word:
        """Return the decision on a held refusal: `hold` while others of its run arrive within `patience_s`."""
        return await self._call(refused, 0, alone=False, patience_ms=int(patience_s * 1000))

    async def _call(self, refused: Refused, most: int, *, alone: bool, patience_ms: int) -> Word:
        _, head = self._pauses.next()
        args = (
            refused.server,
            refused.alike,
            identity(refused.address),
            refused.suppression,
            most,
            "1" if alone else "0",
            refused.reason,
            OPEN_MS,
            STOPPED_MS,
            patience_ms,
            head,
        )
        word = await self._partition.call("count_refusal", args)
        return cast("Word", word.decode() if isinstance(word, bytes) else str(word))

    async def clear(self, server: str) -> None:
        """End a server's run: it has accepted a message."""
        await self._partition.call("clear_refusals", (server,))
