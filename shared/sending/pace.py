"""The pace of one sender, measured as it goes: what it finishes a second, how long sends and round trips take.

It decides how far ahead a sender works. Buffering more than can be begun soon would keep jobs from other senders;
beginning more than is being sent makes more of them uncertain if the process dies, and is worth it only where
sends are so fast that the queue's round trips would leave the provider idle.
"""

from __future__ import annotations

from dataclasses import dataclass

_WEIGHT = 0.2
_SHORTEST_SEND_S = 0.00005
_OBSERVE_EVERY_S = 0.05
_READY_S = 0.02
_RESERVE = 1.25


@dataclass(slots=True)
class Pace:
    """Smoothed measurements, in seconds and jobs a second."""

    per_s: float = 0.0
    send_s: float = 1.0
    begin_s: float = 0.0
    settle_s: float = 0.0
    prepare_s: float = 0.0
    prepare_unready_s: float = 0.0
    _seen: int = 0
    _at: float = 0.0

    def observe(self, finished: int, now: float) -> None:
        """Take note of the number finished so far."""
        elapsed = now - self._at
        if elapsed < _OBSERVE_EVERY_S:
            return
        self.per_s += 0.5 * ((finished - self._seen) / elapsed - self.per_s)
        self._seen, self._at = finished, now

    def sent(self, seconds: float) -> None:
        """Take note of how long one send took."""
        self.send_s += _WEIGHT * (seconds - self.send_s)

    def prepared(self, seconds: float) -> None:
        """Take note of how long a channel took to get ready for a start; its last and its last long one are kept."""
        self.prepare_s = seconds
        if seconds > _READY_S:
            self.prepare_unready_s = seconds

    def need_s(self, *, ready: bool) -> float:
        """How long before its start a job must be begun, so that the channel, ready now or not, is so by then."""
        needed_s = self.prepare_s if ready else max(self.prepare_s, self.prepare_unready_s)
        return needed_s * _RESERVE if needed_s > _READY_S else 0.0

    def begun(self, seconds: float) -> None:
        """Take note of how long the queue took to answer a begin."""
        self.begin_s += _WEIGHT * (seconds - self.begin_s)

    def settled(self, seconds: float) -> None:
        """Take note of how long the queue took to answer a settle."""
        self.settle_s += _WEIGHT * (seconds - self.settle_s)

    def sends_per_round_trip(self, concurrency: int) -> int:
        """Return how many sends so many workers could make while a begin and a settle are on their way."""
        return int(concurrency * (self.begin_s + self.settle_s) / max(self.send_s, _SHORTEST_SEND_S))
