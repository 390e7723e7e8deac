"""The measured pace of one sender: jobs finished per second, and how long sends and round trips take.

The pace decides how far ahead a sender works. A buffer of more jobs than can be begun soon keeps them from other
senders. Beginning more jobs than are being sent makes more of them uncertain if the process dies; this pays only when
sends are so fast that the round trips to the queue would leave the provider idle.
"""

from __future__ import annotations

from dataclasses import dataclass

_WEIGHT = 0.2
_SHORTEST_SEND_S = 0.00005
_OBSERVE_EVERY_S = 0.05
_RESERVE = 1.25
_LEAST_LATE_MS = 16
_LATE_WEIGHT = 0.1
_MOST_LATE_S = 10.0  # a delay beyond that is not allowed for, so it need not be remembered for longer


@dataclass(slots=True)
class Pace:
    """Smoothed measurements, in seconds and jobs per second."""

    per_s: float = 0.0
    send_s: float = 1.0
    begin_s: float = 0.0
    settle_s: float = 0.0
    late_s: float = 0.0
    _seen: int = 0
    _at: float = 0.0

    def observe(self, finished: int, now: float) -> None:
        """Record the number of jobs finished so far."""
        elapsed = now - self._at
        if elapsed < _OBSERVE_EVERY_S:
            return
        self.per_s += 0.5 * ((finished - self._seen) / elapsed - self.per_s)
        self._seen, self._at = finished, now

    def sent(self, seconds: float) -> None:
        """Record how long one send took."""
        self.send_s += _WEIGHT * (seconds - self.send_s)

    def started(self, late_s: float) -> None:
        """Record by how many seconds a start came later than the earliest moment that its grant can mean.

        The longest delay is kept, and decays with the next starts.
        """
        late_s = min(late_s, _MOST_LATE_S)
        self.late_s = max(late_s, self.late_s + _LATE_WEIGHT * (late_s - self.late_s))

    def late_ms(self, allowed_ms: int, most_ms: int) -> int:
        """Return how late the next start may be beyond `allowed_ms`: 0, a power of two, or `most_ms`."""
        expected_ms = self.late_s * 1000 * _RESERVE - allowed_ms
        late_ms = 0 if expected_ms <= 0 else _LEAST_LATE_MS
        while late_ms < min(expected_ms, most_ms):
            late_ms *= 2
        return min(late_ms, most_ms)

    def begun(self, seconds: float) -> None:
        """Record how long the queue took to answer a begin."""
        self.begin_s += _WEIGHT * (seconds - self.begin_s)

    def settled(self, seconds: float) -> None:
        """Record how long the queue took to answer a settle."""
        self.settle_s += _WEIGHT * (seconds - self.settle_s)

    def sends_within(self, seconds: float, concurrency: int) -> int:
        """Return how many sends `concurrency` workers make in this time."""
        return int(concurrency * seconds / max(self.send_s, _SHORTEST_SEND_S))

    def sends_per_round_trip(self, concurrency: int) -> int:
        """Return how many sends `concurrency` workers can make during one begin and one settle."""
        return self.sends_within(self.begin_s + self.settle_s, concurrency)
