"""Room: whether the backlog can take more, without asking Redis for every single message.

Redis is asked whether there is room for a thousand messages more than needed; while that is so, the next ones within
a quarter of a second need not ask. Near the limit every request asks for itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.clock import Clock
from shared.errors import QueueFullError
from shared.queue.producer import Producer

_AHEAD = 1000
_GOOD_FOR_S = 0.25


@dataclass(slots=True)
class _Share:
    """What this process may still add without asking, and until when."""

    left: int
    until: float


@dataclass(slots=True)
class Room:
    """The room that this process knows of, by channel."""

    producer: Producer
    clock: Clock
    _shares: dict[str, _Share] = field(default_factory=dict)

    async def take(self, channel: str, adding: int) -> None:
        """Raise QueueFullError where so many more would pass the limits of the backlog."""
        share = self._shares.get(channel)
        if share is not None and adding <= share.left and self.clock.monotonic() < share.until:
            share.left -= adding
            return
        try:
            await self.producer.check_room(channel, adding + _AHEAD)
        except QueueFullError:
            self._shares.pop(channel, None)
            await self.producer.check_room(channel, adding)
        else:
            self._shares[channel] = _Share(_AHEAD, self.clock.monotonic() + _GOOD_FOR_S)
