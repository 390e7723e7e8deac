"""The conditions besides limits that hold a sender back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shared.errors import StopChannelError
from shared.queue.leases import Lease
from shared.sending.provider import Capacity


@dataclass(slots=True)
class Gates:
    """The conditions besides limits that hold a sender back; checked before each fetch and each begin.

    `provider_capacity` takes the number of connections wanted; `stop_channel` takes the error that says why none can be
    opened. `prepare` takes each batch of fetched jobs, and later each batch of begun ones. `announces` is whether
    the provider announces messages (`ChainingProvider`). `redis_away` is why Redis does not serve, "" while it does.
    """

    lease_fresh: Callable[[], bool]
    provider_available: Callable[[], bool]
    provider_capacity: Callable[[int], Capacity]
    stop_channel: Callable[[StopChannelError], Awaitable[None]]
    prepare: Callable[[Sequence[Lease]], None]
    announces: bool = False
    probing: bool = False
    paused: str = ""
    log_behind: bool = False
    redis_away: str = ""
    backoff_until: float = 0.0
    blocked_s: float = 0.0
