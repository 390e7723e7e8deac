"""Fetching one job at a time, as a sender does while it probes a provider that was away."""

from __future__ import annotations

from tests.integration.queue.world import World


async def test_every_job_is_fetched_one_at_a_time(world: World) -> None:
    """The ring's turn goes to `normal` while the ring is empty; this case once stopped all fetching."""
    await world.given(12)
    sender = await world.sender()
    fetched = [lease.job.index for _ in range(12) for lease in await sender.fetch(1)]
    assert fetched == list(range(12))
