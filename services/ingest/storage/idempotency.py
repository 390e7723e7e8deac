"""Idempotency records: the outcome of each request with an Idempotency-Key, kept for 24 hours.

A record names the blast before the blast exists, so that a request repeated after a crash continues the same blast: its
job ids are the same, and the queue's watermark adds only the missing jobs. A running request holds a lease and renews
it; an expired lease can be taken over.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis

from shared.errors import QueueUnavailableError
from shared.lifecycle import end_tasks
from shared.logs import get_logger
from shared.queue.blasts import is_confirmed
from shared.queue.partitions import replicas_of
from shared.queue.scripts import Argument, Script

KEEP_MS = 24 * 3600 * 1000
LEASE_MS = 15_000

_BEGIN = Script(
    "idempotency_begin",
    """#!lua
-- KEYS 1 the record · ARGV 1 hash of the request · 2 blast id for a new record · 3 owner · 4 lease in ms · 5 ms to keep
local record = redis.call('HMGET', KEYS[1], 'request', 'blast', 'lease', 'response')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not record[1] then
  redis.call('HSET', KEYS[1], 'request', ARGV[1], 'blast', ARGV[2], 'owner', ARGV[3], 'lease', now + ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  return { 'new', ARGV[2] }
end
if record[1] ~= ARGV[1] then return { 'reused', '' } end
if record[4] then return { 'done', record[4] } end
if tonumber(record[3]) > now then return { 'running', '' } end
redis.call('HSET', KEYS[1], 'owner', ARGV[3], 'lease', now + ARGV[4])
return { 'taken_over', record[2] }
""",
)
_PEEK = Script(
    "idempotency_peek",
    """#!lua flags=no-writes
-- KEYS 1 the record · Result {blast id or "", 1 if it has its response, ms that its lease still holds}
local record = redis.call('HMGET', KEYS[1], 'blast', 'lease', 'response')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return { record[1] or '', record[3] and 1 or 0, math.max(0, tonumber(record[2] or 0) - now) }
""",
)
_RENEW = Script(
    "idempotency_renew",
    """#!lua flags=allow-oom
-- KEYS 1 the record · ARGV 1 owner · 2 lease in ms, 0 to let it go · Result 1 if the owner held it
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'lease', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
return 1
""",
)
_COMPLETE = Script(
    "idempotency_complete",
    """#!lua flags=allow-oom
-- KEYS 1 the record · ARGV 1 the response
-- The first response stays: two requests that work on one blast have the same response.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HSETNX', KEYS[1], 'response', ARGV[1])
""",
)
_FORGET = Script(
    "idempotency_forget",
    """#!lua flags=allow-oom
-- KEYS 1 the record · ARGV 1 owner
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""",
)

log = get_logger()


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A record's state: its blast ("" for no record), whether it has its response, the rest of its lease."""

    blast_id: str
    done: bool
    lease_left_s: float


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of claiming a record.

    `new` and `taken_over` continue with `blast_id`; `done` repeats `response`; `running` and `reused` are refused.
    """

    state: Literal["new", "taken_over", "done", "running", "reused"]
    key: str
    owner: str
    blast_id: str = ""
    response: bytes = b""


def record_key(api_key: str, key: str) -> str:
    """Return the Redis key of a record; callers with different API keys never share one."""
    digest = hashlib.sha256(f"{api_key}\0{key}".encode()).hexdigest()
    return f"idempotency:{digest[:40]}"


class IdempotencyStore:
    """The records in Redis; `lease_ms` bounds how long a crashed request blocks its repetition."""

    def __init__(self, redis: Redis, lease_ms: int = LEASE_MS) -> None:
        self._redis = redis
        self._lease_ms = lease_ms

    async def peek(self, key: str) -> Glimpse:
        """Read a record without claiming it."""
        blast_id, done, left_ms = await self._call(_PEEK, key, ())
        return Glimpse(blast_id.decode(), done=bool(done), lease_left_s=left_ms / 1000)

    async def claim(self, key: str, request: str, blast_id: str) -> Claim:
        """Begin or continue the request with this hash; a new record gets this `blast_id`.

        Raises QueueUnavailableError, also while fewer replicas have the record than a blast requires.
        """
        owner = secrets.token_hex(8)
        state, value = await self._call(_BEGIN, key, (request, blast_id, owner, self._lease_ms, KEEP_MS))
        kind = state.decode()
        if kind == "done":
            return Claim("done", key, owner, response=zlib.decompress(value))
        claim = Claim(kind, key, owner, blast_id=value.decode())
        if kind in {"new", "taken_over"} and replicas_of(self._redis):
            await self._confirm(claim)
        return claim

    async def _confirm(self, claim: Claim) -> None:
        """Wait until the replicas have a record.

        It has a slot of its own: a failover there would forget it, and not the blast, which a repetition would then
        create once more.
        """
        try:
            known = await is_confirmed(self._redis, claim.key, "blast")
        except QueueUnavailableError:
            with suppress(QueueUnavailableError):
                await self.let_go(claim)
            raise
        if not known:
            raise QueueUnavailableError("a failover lost the record of this request")

    @asynccontextmanager
    async def held(self, claim: Claim) -> AsyncIterator[None]:
        """Renew the lease while the block runs."""
        renewing = asyncio.create_task(self._renew(claim))
        try:
            yield
        finally:
            await end_tasks([renewing])

    async def complete(self, claim: Claim, response: bytes) -> None:
        """Store the response for repetitions of the request."""
        await self._call(_COMPLETE, claim.key, (zlib.compress(response, 1),))

    async def forget(self, claim: Claim) -> None:
        """Delete the record of a request that changed nothing, so that a corrected one can use the same key."""
        await self._call(_FORGET, claim.key, (claim.owner,))

    async def let_go(self, claim: Claim) -> None:
        """Release the lease of an unfinished request, so that a repetition can continue immediately."""
        await self._call(_RENEW, claim.key, (claim.owner, 0))

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            try:
                await self._call(_RENEW, claim.key, (claim.owner, self._lease_ms))
            except QueueUnavailableError as error:
                log.debug("idempotency lease not renewed", reason=str(error))

    async def _call(self, script: Script, key: str, args: Sequence[Argument]) -> Any:
        return await script.call(self._redis, (key,), args)
