"""A snapshot is loaded once, however many jobs need it, and before the first one does."""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
import pytest

from shared.blasts import Blast, pack_blast
from shared.errors import DeferredError, QueueUnavailableError
from shared.queue.blasts import BlastStore
from shared.sending.caches import SnapshotCache
from shared.templates import Template

BLAST = Blast("b1", Template("t", "T", ["email"]), ["email"], "normal", 0, {"email": 1}, 1)


class _Store:
    """Answers when the test says so; raises the first `away` times."""

    def __init__(self, away: int = 0) -> None:
        self.asked: list[str] = []
        self.answer = asyncio.Event()
        self._away = away

    async def load(self, blast_id: str) -> Blast | None:
        self.asked.append(blast_id)
        if len(self.asked) <= self._away:
            raise QueueUnavailableError("away")
        await self.answer.wait()
        if blast_id == "unknown":
            return None
        size = {"big": 700_000, "bigger": 2_000_000}.get(blast_id, 0)
        return BLAST if not size else msgspec.structs.replace(BLAST, reference="x" * size)


def _cache(store: _Store) -> SnapshotCache:
    return SnapshotCache(cast("BlastStore", store))


async def test_many_that_wait_are_answered_by_one_load() -> None:
    """Forty jobs of one blast that arrive together cost one read from Redis."""
    store = _Store()
    cache = _cache(store)
    cache.expect("b1")
    waiting = [asyncio.create_task(cache.get("b1")) for _ in range(40)]
    await asyncio.sleep(0)
    store.answer.set()
    assert await asyncio.gather(*waiting) == [BLAST] * 40
    assert store.asked == ["b1"]
    assert cache.kept("b1") is BLAST


async def test_one_that_came_with_its_job_is_not_loaded() -> None:
    """What cannot be read is loaded with its job, whose attempt reports it."""
    store = _Store()
    cache = _cache(store)
    cache.keep("b1", pack_blast(BLAST))
    assert cache.kept("b1") == BLAST
    cache.keep("b2", b"no blast")
    assert cache.kept("b2") is None
    cache.expect("b1")
    assert await cache.get("b1") == BLAST
    assert store.asked == []


async def test_one_that_gives_up_leaves_the_load_to_the_others() -> None:
    """Cancelling one waiting worker does not cancel the load for the others."""
    store = _Store()
    cache = _cache(store)
    leaving, staying = (asyncio.create_task(cache.get("b1")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    store.answer.set()
    assert await staying is BLAST


async def test_unknown_blast_is_requested_again() -> None:
    """A missing blast is not cached: it may be restored to send its dead letters again."""
    store = _Store()
    store.answer.set()
    cache = _cache(store)
    assert await cache.get("unknown") is None
    assert await cache.get("unknown") is None
    assert store.asked == ["unknown", "unknown"]


async def test_snapshots_are_bounded_by_their_bytes() -> None:
    """Hundreds of small snapshots fit; the least recently used is dropped first; one above the bound is kept alone."""
    store = _Store()
    store.answer.set()
    cache = SnapshotCache(cast("BlastStore", store), kept_bytes=1_000_000)
    for blast_id in [*(f"b{number}" for number in range(1, 200)), "b1", "big", "b1"]:
        await cache.get(blast_id)
    assert store.asked.count("b1") == 1
    await cache.get("b2")
    assert store.asked.count("b2") == 2
    await cache.get("bigger")
    assert cache.kept("bigger") is not None
    assert cache.kept("b1") is None


async def test_redis_that_is_away_is_waited_for() -> None:
    """A load is repeated while Redis is away, until it is answered."""
    store = _Store(away=1)
    store.answer.set()
    assert await _cache(store).get("b1") is BLAST
    assert len(store.asked) == 2


async def test_loads_end_with_the_sender() -> None:
    """While Redis is away a load is repeated; closing ends it."""
    store = _Store(away=1_000_000)
    cache = _cache(store)
    cache.expect("b1")
    await asyncio.sleep(0)
    await cache.close()
    assert len(asyncio.all_tasks()) == 1


async def test_a_node_that_is_away_does_not_keep_a_worker() -> None:
    """With limited patience the job is deferred, and a later one loads the snapshot."""
    store = _Store()
    cache = SnapshotCache(cast("BlastStore", store), patience_s=0.02)
    with pytest.raises(DeferredError, match="node of Redis that is away"):
        await cache.get("b1")
    cache._patience_s = 60.0
    store.answer.set()
    assert await cache.get("b1") is BLAST
