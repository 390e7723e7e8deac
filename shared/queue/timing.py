"""The queue's time constants in one place, so that tests can run them all at a quarter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Every duration that the queue's guarantees depend on, in milliseconds.

    `park_ms` (V) must exceed every delay that is parked in the pending list: a parked entry is due once its
    idle time reaches V, and Redis clamps a negative IDLE to 0. Starts under a rate are spaced as if its period were
    `jitter_allowance_ms` longer; a start may lose `late_start_ms` of it in its sender, the rest on its way. Starts
    are granted up to `grant_ahead_ms` in advance.
    """

    park_ms: int = 60_000
    heartbeat_ttl_ms: int = 10_000
    heartbeat_every_ms: int = 2_000
    begin_within_ms: int = 5_000
    check_every_ms: int = 2_000
    checks_apart_ms: int = 8_000
    redis_up_ms: int = 15_000
    buffer_idle_ms: int = 3_000
    grant_ahead_ms: int = 100
    jitter_allowance_ms: int = 80
    late_start_ms: int = 35
    watch_every_ms: int = 5_000
    keep_ended_ms: int = 48 * 3600 * 1000

    @classmethod
    def scaled(cls, scale: float) -> Timing:
        """Return the constants multiplied by `scale`; `park_ms`, `keep_ended_ms` and the limiter's are unchanged."""
        scaled = {
            name: max(1, int(getattr(UNSCALED, name) * scale))
            for name in (
                "heartbeat_ttl_ms", "heartbeat_every_ms", "begin_within_ms", "check_every_ms", "checks_apart_ms",
                "redis_up_ms", "buffer_idle_ms", "watch_every_ms",
            )
        }  # fmt: skip
        return cls(**scaled)


UNSCALED = Timing()
"""The constants of a system whose KURIR_TIME_SCALE is 1."""
