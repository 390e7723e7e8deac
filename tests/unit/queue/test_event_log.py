"""Reading the events of a cluster, where one command may name the streams of one slot only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared.errors import QueueUnavailableError
from shared.events import EventBatch, pack_batch
from shared.queue.client import QueueRedis
from shared.queue.event_log import EventEntry, EventLog
from tests.awake import awake
from tests.servers import PATIENCE_S

EMAIL, SECOND, GATEWAY = "{email}:events", "{email.1t}:events", "gateway:events"
Rows = list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes] | None]]]]


class FakeCluster(QueueRedis):
    """Streams of numbered entries; each in a slot of its own. A read blocks until there is one, or its time is over."""

    partitions = 2
    clustered = True

    def __init__(self) -> None:
        self.fresh: dict[str, list[int]] = {EMAIL: [], SECOND: [], GATEWAY: []}
        self.pending: dict[str, list[int]] = {EMAIL: [], SECOND: [], GATEWAY: []}
        self.failing: dict[str, Exception] = {}
        self.frozen: set[str] = set()
        self.slow: set[str] = set()
        self.acknowledged: list[str] = []

    def __del__(self, *_: object) -> None:
        """It has no connection to close."""

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        return [[key] for key in keys]

    async def xreadgroup(  # type: ignore[override]
        self, groupname: str, consumername: str, streams: Mapping[str, str], count: int, block: int | None
    ) -> Rows:
        del groupname, consumername
        ((stream, after),) = streams.items()
        if stream in self.frozen:
            await asyncio.Event().wait()
        if stream in self.failing:
            raise self.failing[stream]
        if stream in self.slow:
            await asyncio.sleep(0.05)
        if after != ">":
            numbers = [one for one in self.pending[stream] if one > int(after.partition("-")[0])][:count]
            return [(stream.encode(), [_row(one) for one in numbers])] if numbers else []
        until = asyncio.get_running_loop().time() + (block or 0) / 1000
        while not self.fresh[stream] and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110 -- a fake
            await asyncio.sleep(0.005)
        numbers, self.fresh[stream] = self.fresh[stream][:count], self.fresh[stream][count:]
        self.pending[stream] += numbers
        return [(stream.encode(), [_row(one) for one in numbers])] if numbers else []

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Acknowledge, by script."""
        del options
        stream = args[3]
        if stream in self.frozen:
            await asyncio.Event().wait()
        if stream in self.failing:
            raise self.failing[stream]
        self.acknowledged.append(stream)


def _row(number: int) -> tuple[bytes, dict[bytes, bytes] | None]:
    return f"{number}-1".encode(), {b"d": pack_batch(EventBatch("p", number, []))}


async def read(log: EventLog, block_s: float = 1.0) -> set[tuple[str, str]]:
    """Read once; return the streams and ids."""
    return {(entry.stream, entry.entry_id) for entry in await log.read(100, block_s)}


@pytest.fixture
async def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def log(cluster: FakeCluster) -> EventLog:
    return EventLog(cluster, ["email"])


async def test_a_stream_with_events_does_not_wait_for_quiet_ones(cluster: FakeCluster, log: EventLog) -> None:
    """The reads of the quiet ones continue; what they bring later is returned later, and nothing twice."""
    cluster.fresh[SECOND] = [1]
    async with asyncio.timeout(PATIENCE_S):
        assert await read(log, 3600.0) == {(SECOND, "1-1")}
    cluster.fresh[EMAIL], cluster.fresh[GATEWAY] = [2], [3]
    found: set[tuple[str, str]] = set()
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < 2:
            found |= await read(log, 3600.0)
    assert found == {(EMAIL, "2-1"), (GATEWAY, "3-1")}
    await log.close()


@pytest.mark.parametrize(
    "error", [RedisConnectionError("gone"), ResponseError("NOGROUP no such group")], ids=["lost", "no group"]
)
async def test_a_stream_that_fails_holds_up_no_other(
    cluster: FakeCluster, log: EventLog, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are read; what it gave with a lost reply is pending, and is read once it answers."""

    async def make_no_groups(self: EventLog, streams: Sequence[str]) -> None:
        del self, streams

    monkeypatch.setattr(EventLog, "_make_groups", make_no_groups)
    monkeypatch.setattr("shared.queue.event_log.AWAY_POLL_S", 0.02)
    assert await read(log, 0.0) == set()
    cluster.fresh[EMAIL], cluster.failing[SECOND], cluster.pending[SECOND] = [1], error, [2]
    assert await _until(log, 1) == {(EMAIL, "1-1")}
    assert log.away == ("" if isinstance(error, ResponseError) else "read events: gone")
    cluster.failing.clear()
    cluster.fresh[SECOND] = [3]
    expected = {(SECOND, "3-1")} if isinstance(error, ResponseError) else {(SECOND, "2-1"), (SECOND, "3-1")}
    assert await _until(log, len(expected)) == expected
    assert log.away == ""
    await log.close()


async def test_a_frozen_node_holds_up_no_other(cluster: FakeCluster, log: EventLog) -> None:
    """Neither reads nor acknowledgements of the other streams wait for it, and at a stop little time is lost."""
    cluster.frozen = {SECOND}
    async with awake() as spent:
        for number in range(1, 20):
            cluster.fresh[EMAIL] = [number]
            assert await read(log, 5.0) == {(EMAIL, f"{number}-1")}
        await log.ack([_entry_of(SECOND, 1), _entry_of(EMAIL, 1)])
        assert cluster.acknowledged == [EMAIL]
        assert await read(log, 0.0) == set()
    assert spent.seconds < 3
    await log.close()


async def test_what_could_not_be_acknowledged_is_read_again(cluster: FakeCluster, log: EventLog) -> None:
    """Only that: entries of other streams are not repeated."""
    cluster.fresh[EMAIL], cluster.fresh[SECOND] = [1], [2]
    entries = await _until(log, 2)
    assert entries == {(EMAIL, "1-1"), (SECOND, "2-1")}
    cluster.failing[SECOND] = RedisConnectionError("gone")
    await log.ack([_entry_of(EMAIL, 1), _entry_of(SECOND, 2)])
    cluster.failing.clear()
    assert await _until(log, 1) == {(SECOND, "2-1")}
    assert await read(log, 0.1) == set()
    await log.close()


async def test_reading_fails_only_if_every_stream_is_away(cluster: FakeCluster, log: EventLog) -> None:
    """Then the caller pauses, as on a single server."""
    cluster.failing = dict.fromkeys((EMAIL, SECOND, GATEWAY), RedisConnectionError("gone"))
    for _ in range(2):
        with pytest.raises(QueueUnavailableError):
            await read(log, 0.0)
    cluster.failing.clear()
    cluster.fresh[SECOND] = [1]
    assert await _until(log, 1) == {(SECOND, "1-1")}
    await log.close()


async def _until(log: EventLog, count: int) -> set[tuple[str, str]]:
    """Read until there are this many entries."""
    found: set[tuple[str, str]] = set()
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            with suppress(QueueUnavailableError):
                found |= await read(log, 0.05)
    return found


def _entry_of(stream: str, number: int) -> EventEntry:
    return EventEntry(stream, f"{number}-1", EventBatch("p", number, []))


async def test_reads_that_wait_when_all_starts_over_lose_nothing(cluster: FakeCluster, log: EventLog) -> None:
    """Their entries are returned as pending ones."""
    assert await read(log, 0.0) == set()
    cluster.fresh[SECOND] = [1]
    assert await read(log, 0.1) == {(SECOND, "1-1")}
    cluster.fresh[EMAIL] = [2]
    log.start_over()
    assert await _until(log, 2) == {(SECOND, "1-1"), (EMAIL, "2-1")}
    assert await read(log, 0.1) == set()
    await log.close()


async def test_starting_over_during_a_read_of_pending_entries_loses_none(cluster: FakeCluster, log: EventLog) -> None:
    """What that read brings is dropped, and read again from the start."""
    cluster.pending[EMAIL], cluster.slow = [1, 2], {EMAIL}
    reading = asyncio.create_task(read(log, 0.5))
    await asyncio.sleep(0.01)
    log.start_over([EMAIL])
    found = await reading | await _until(log, 2)
    assert found == {(EMAIL, "1-1"), (EMAIL, "2-1")}
    await log.close()
