"""The two forms of the suite: short, with all time constants at a quarter, and the soak at full length."""

from __future__ import annotations

from dataclasses import dataclass

from shared.queue.timing import Timing


@dataclass(frozen=True, slots=True)
class Form:
    """The durations of this run; `mix_s` is the length of the random mix."""

    name: str
    scale: float
    seed: int
    mix_s: float

    @property
    def timing(self) -> Timing:
        """The queue's time constants in this form."""
        return Timing.scaled(self.scale)

    @property
    def lease_s(self) -> float:
        """How long a sender's lease lasts without a renewal."""
        return self.timing.heartbeat_ttl_ms / 1000

    @property
    def flows_again_s(self) -> float:
        """G7: work flows again this long after a fault healed."""
        return 15.0 * self.scale

    @property
    def dead_sender_s(self) -> float:
        """G7: the jobs of a dead sender flow again this long after its death."""
        return 30.0 * self.scale

    def seconds(self, full: float) -> float:
        """Scale a duration of the fault itself."""
        return full * self.scale
