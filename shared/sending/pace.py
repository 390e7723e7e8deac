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
_RESERVE = 1.25
_LEAST_LATE_MS = 16
_LATE_WEIGHT = 0.1


@dataclass(slots=True)
class Pace:
    """Smoothed measurements, in seconds and jobs a second."""

    per_s: float = 0.0
    send_s: float = 1.0
    begin_s: float = 0.0
    settle_s: float = 0.0
    late_s: float = 0.0
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

    def started(self, late_s: float) -> None:
        """Take note of how long after its begin was asked for a start came, or would have come, at the latest.

        The longest is remembered, and forgotten over the next starts.
        """
        self.late_s = max(late_s, self.late_s + _LATE_WEIGHT * (late_s - self.late_s))

    def late_ms(self, allowed_ms: int, most_ms: int) -> int:
        """Return by how much more than `allowed_ms` the next start may be late: a power of two, or 0."""
        expected_ms = self.late_s * 1000 * _RESERVE - allowed_ms
        late_ms = 0 if expected_ms <= 0 else _LEAST_LATE_MS
        while late_ms < min(expected_ms, most_ms):
            late_ms *= 2
        return min(late_ms, most_ms)

    def begun(self, seconds: float) -> None:
        """Take note of how long the queue took to answer a begin."""
        self.begin_s += _WEIGHT * (seconds - self.begin_s)

    def settled(self, seconds: float) -> None:
        """Take note of how long the queue took to answer a settle."""
        self.settle_s += _WEIGHT * (seconds - self.settle_s)

    def sends_per_round_trip(self, concurrency: int) -> int:
        """Return how many sends so many workers could make while a begin and a settle are on their way."""
        return int(concurrency * (self.begin_s + self.settle_s) / max(self.send_s, _SHORTEST_SEND_S))
