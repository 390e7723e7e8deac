"""The queues of webhooks as the logger fills them: the deliveries of an endpoint are the jobs of one endless blast.

A delivery's number is its position in that blast, so the watermark of `enqueue` makes a repeated chunk harmless. The
watermark also shows what Redis no longer has (it lost its last writes, or everything), and what a database that was
restored from a backup does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.blasts import Blast
from shared.channels import WEBHOOK
from shared.clock import Clock, SystemClock
from shared.jobs import Job, Recipient
from shared.queue.blasts import BlastStore
from shared.queue.connection import translated
from shared.queue.control import Control
from shared.queue.producer import Chunk, Producer
from shared.queue.timing import UNSCALED, Timing
from shared.queue.webhooks import Endpoints, webhook_partition
from shared.templates import Template
from shared.webhooks import Endpoint

BODY = "body"
"""The variable of a delivery's job that has the JSON to send."""
# more than an endpoint ever gets: the blast of an endpoint never ends
_ENDLESS = 2**53
_KEYS_A_CALL = 500


class Outgoing(NamedTuple):
    """A delivery to enqueue: its number, its `webhook-id`, and its body."""

    n: int
    webhook_id: str
    body: str


class Progress(NamedTuple):
    """What Redis knows of an endpoint: the next delivery that it expects, and the last report that was taken from it.

    `taken` is the id of an entry of the partition's event stream, ("0-0" if none was).
    """

    watermark: int
    taken: str


class Pause(NamedTuple):
    """The reason of a partition's pause ("" if it is not paused), and how many events the logger has yet to read."""

    reason: str
    unread: int


class WebhookQueues:
    """Fills the partitions of endpoints; every call is safe to repeat, and raises QueueUnavailableError."""

    def __init__(self, redis: Redis, name: str, timing: Timing = UNSCALED, clock: Clock | None = None) -> None:
        self._redis = redis
        self._clock = clock or SystemClock()
        self._blasts = BlastStore(redis, f"{name}/webhooks", timing)
        self._control = Control(redis, f"{name}/webhooks", timing)
        self._producer = Producer(redis, f"{name}/webhooks", timing=timing)
        self._endpoints = Endpoints(redis)

    async def publish(self, endpoints: Sequence[Endpoint]) -> None:
        """Write all endpoints for the senders, each with the snapshot of its blast; remove every other."""
        for one in endpoints:
            await self._blasts.restore(_blast_of(one), {})
        await self._endpoints.replace_all(endpoints)

    async def published(self) -> dict[int, str]:
        """Return the ids of the endpoints that Redis has, by number, "" for one that cannot be read."""
        endpoints, errors = await self._endpoints.load()
        return {one.number: one.endpoint_id for one in endpoints} | dict.fromkeys(errors, "")

    async def pauses(self, numbers: Sequence[int]) -> list[Pause]:
        """Return the pauses of endpoints' partitions."""
        with translated("read pauses"):
            async with self._redis.pipeline(transaction=False) as pipe:
                for number in numbers:
                    keys = webhook_partition(self._redis, number).keys
                    pipe.get(keys.key("paused"))
                    pipe.xlen(keys.events)
                found = await pipe.execute()
        return [Pause((found[n] or b"").decode(), int(found[n + 1])) for n in range(0, len(found), 2)]

    async def pause(self, number: int, reason: str) -> None:
        """Begin no more deliveries to an endpoint."""
        await self._control.pause_partitions([webhook_partition(self._redis, number)], reason)

    async def resume(self, number: int) -> None:
        """Deliver to an endpoint again."""
        await self._control.resume_partitions([webhook_partition(self._redis, number)])

    async def enqueue(self, endpoint: Endpoint, deliveries: Sequence[Outgoing]) -> int:
        """Enqueue deliveries whose numbers follow one another; return the watermark after it.

        Raises GapError if those before the first are not in Redis, and QueueFullError.
        """
        now_ms = self._clock.now_ms()
        jobs = [_job(endpoint, one, now_ms) for one in deliveries]
        chunk = Chunk(_blast_of(endpoint), WEBHOOK.name, deliveries[0].n, jobs)
        done = await self._producer.enqueue(chunk, webhook_partition(self._redis, endpoint.number))
        return done.watermark

    async def progress(self, endpoints: Sequence[Endpoint]) -> list[Progress]:
        """Return what Redis knows of each endpoint."""
        with translated("progress of webhooks"):
            async with self._redis.pipeline(transaction=False) as pipe:
                for one in endpoints:
                    pipe.hget(self._progress(one), "wm:jobs")
                    pipe.xinfo_stream(webhook_partition(self._redis, one.number).keys.events)
                found = await pipe.execute(raise_on_error=False)
            return [_progress_of(found[n], found[n + 1]) for n in range(0, len(found), 2)]

    async def skip_to(self, endpoint: Endpoint, n: int) -> None:
        """Expect the delivery `n` next: Redis does not have those before it, and needs none of them."""
        redis: Any = self._redis
        with translated("skip deliveries"):
            await redis.hset(self._progress(endpoint), "wm:jobs", n)

    async def delete(self, number: int) -> bool:
        """Delete a partition's keys; return whether there were none.

        Deletes nothing while a sender is alive there. Call it again until it returns True: a delivery that was being
        enqueued meanwhile makes keys again.
        """
        partition = webhook_partition(self._redis, number)
        redis: Any = self._redis
        with translated("delete webhook"):
            senders = [name.decode() for name in await redis.hkeys(partition.keys.key("senders"))]
            if senders and await redis.exists(*map(partition.keys.sender, senders)):
                return False
            pattern = f"{partition.keys.tag}:*"
            server = await partition.server()
            found = [key async for key in server.scan_iter(match=pattern, count=_KEYS_A_CALL)]
            for first in range(0, len(found), _KEYS_A_CALL):
                await redis.unlink(*found[first : first + _KEYS_A_CALL])
        return not found

    async def forget(self, endpoint_id: str) -> None:
        """Delete the snapshot of a deleted endpoint's blast."""
        await self._blasts.expire(endpoint_id, 1)

    def _progress(self, endpoint: Endpoint) -> str:
        return webhook_partition(self._redis, endpoint.number).keys.blast(endpoint.endpoint_id)


def _progress_of(watermark: Any, stream: Any) -> Progress:
    """Read two answers; a stream that does not exist is an error of Redis's."""
    if isinstance(watermark, Exception):
        raise watermark
    if isinstance(stream, ResponseError) and "no such key" in str(stream):
        return Progress(int(watermark or 0), "0-0")
    if isinstance(stream, Exception):
        raise stream
    return Progress(int(watermark or 0), stream["max-deleted-entry-id"].decode())


def _blast_of(endpoint: Endpoint) -> Blast:
    """Return the blast whose jobs are the deliveries to an endpoint; the same at every call."""
    return Blast(
        blast_id=endpoint.endpoint_id,
        template=Template(id="", name="", channels=[]),
        channels=[WEBHOOK.name],
        lane="normal",
        created_at_ms=0,
        totals={WEBHOOK.name: _ENDLESS},
        total_recipients=0,
    )


def _job(endpoint: Endpoint, one: Outgoing, now_ms: int) -> Job:
    recipient = Recipient(endpoint.endpoint_id, one.webhook_id, {BODY: one.body})
    return Job(endpoint.endpoint_id, one.n, WEBHOOK.name, "normal", recipient, now_ms)
