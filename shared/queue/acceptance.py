"""Accepts single messages: the snapshot of a blast and its only job in one step, with those that arrive meanwhile.

A blast of one message pays alone for everything that a large one pays once: its snapshot, its events, its wake-up, and
a sync of Redis's file for each of its calls. So its snapshot, its job and its events are one call of a script, and the
messages of concurrent requests share calls (`joined_calls`). A message that comes alone waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain

from redis.asyncio import Redis

from shared.blasts import Blast, pack_blast
from shared.clock import Clock, SystemClock
from shared.events import BlastAccepted, pack_event
from shared.jobs import Job, pack_job
from shared.queue.batches import Numbered
from shared.queue.client import QueueRedis
from shared.queue.joined_calls import JoinedCalls
from shared.queue.partitions import Partition, partition_at, replicas_of
from shared.queue.producer import queued_event

_APART_S = 0.005


# a message as the script takes it
_Message = tuple[str | bytes, ...]


class Acceptance:
    """Accepts single messages; `name` must be unique to the process (see `boot_name`)."""

    def __init__(self, redis: Redis, name: str, clock: Clock | None = None, apart_s: float = _APART_S) -> None:
        self._redis = redis
        self._clock = clock or SystemClock()
        self._heads = Numbered(name, "accept")
        self._apart_s = apart_s
        self._calls: dict[Partition, JoinedCalls[_Message, int]] = {}

    def takes(self, blast: Blast, job: Job) -> bool:
        """Return whether a blast's only job can be accepted so: now, small, and all on one server without replicas.

        On a cluster the snapshot has a slot of its own, and replicas confirm a blast key by key.
        """
        redis = self._redis
        return (
            isinstance(redis, QueueRedis)
            and not redis.clustered
            and not replicas_of(redis)
            and blast.lane != "bulk"
            and not blast.scheduled_at_ms
            and not blast.attachments
            and not job.recipient.attachments
            and sum(blast.totals.values()) == 1
        )

    async def accept(self, blast: Blast, job: Job) -> bool:
        """Store the snapshot, enqueue the job and report both to the logger, in one step.

        Return False if a part of the blast exists: then create and enqueue it as any other. A repetition adds nothing
        twice. Raises QueueFullError and QueueUnavailableError.
        """
        snapshot, now_ms = pack_blast(blast), self._clock.now_ms()
        message: _Message = (
            blast.blast_id,
            blast.lane,
            snapshot,
            pack_job(job),
            pack_event(BlastAccepted(now_ms, blast.blast_id, snapshot)),
            pack_event(queued_event(blast, job.channel, [job], now_ms)),
        )
        where = partition_at(self._redis, job.channel, blast.partition_of(job.channel, job.index))
        return await self._calls_to(where).call(message, sum(map(len, message))) >= 0

    def _calls_to(self, where: Partition) -> JoinedCalls[_Message, int]:
        calls = self._calls.get(where)
        if calls is None:
            calls = self._calls[where] = JoinedCalls(partial(self._accept, where), self._apart_s)
        return calls

    async def _accept(self, where: Partition, messages: Sequence[_Message]) -> Sequence[int]:
        _, head = self._heads.next()
        found: list[int] = await where.call("accept", [head, *chain.from_iterable(messages)])
        return found
