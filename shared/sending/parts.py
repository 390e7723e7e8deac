"""What the workers of a sender share: the parts that they call, and what they report to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol

from shared.clock import Clock
from shared.errors import StopBlastError, StopChannelError
from shared.jobs import Job
from shared.sealing import Seal
from shared.sending.caches import FileCache, SnapshotCache
from shared.sending.holdings import Holdings
from shared.sending.outcomes import OutcomePolicy
from shared.sending.provider import MessageT, Provider
from shared.sending.settler import Settler
from shared.sending.shares import Settlers, Shares
from shared.sending.verdicts import Verdicts


class SendObserver(Protocol):
    """The metrics of a sender; implemented in `shared/sender_metrics.py`."""

    def attempt(self, channel: str, outcome: str, error_class: str, duration_s: float) -> None:
        """Count one attempt with its outcome and the seconds it took."""
        ...

    def queue_latency(self, channel: str, lane: str, seconds: float) -> None:
        """Observe the time from enqueueing to the first attempt."""
        ...

    def housekeeping_failed(self, channel: str, task: str) -> None:
        """Count an unexpected error in the sender's housekeeping."""
        ...


class Consequences(Protocol):
    """The effects of an outcome beyond the job itself."""

    async def stop_channel(self, error: StopChannelError) -> None:
        """Pause the channel with the provider's reason."""
        ...

    async def stop_blast(self, blast_id: str, error: StopBlastError) -> None:
        """Pause a blast with the provider's reason."""
        ...

    async def suppress(self, job: Job, reason: str, words: str) -> None:
        """Suppress a job's address, with a reason and the provider's reply."""
        ...

    def provider_failed(self) -> None:
        """Note that the server failed, not the message: pause dispatching briefly."""
        ...

    def provider_worked(self) -> None:
        """Note that the server works: it accepted a message, or answered why it did not."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerParts(Generic[MessageT]):
    """The parts that the workers of a sender share."""

    provider: Provider[MessageT]
    snapshots: SnapshotCache
    files: FileCache
    settler: Settler | Settlers
    holdings: Holdings
    policy: OutcomePolicy
    observer: SendObserver
    consequences: Consequences
    shares: Shares
    clock: Clock
    verdicts: Verdicts
    seal: Seal
