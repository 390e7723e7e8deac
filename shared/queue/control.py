"""Control and statistics: pauses, cancellations, rates, and the current counts of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from shared.blasts import Blast
from shared.channels import CHANNELS, WHATSAPP
from shared.clock import Clock, SystemClock
from shared.jobs import Job, JobId, parse_job_id
from shared.queue.batches import Numbered
from shared.queue.blasts import BlastProgress, BlastStore, ChannelProgress
from shared.queue.client import QueueRedis
from shared.queue.connection import translated
from shared.queue.later_jobs import limit_of_later
from shared.queue.partitions import (
    Partition,
    in_each,
    limits_partition,
    partition_at,
    partitions,
    partitions_of,
)
from shared.queue.rates import Rates
from shared.queue.sweeper import Sweeper
from shared.queue.timing import UNSCALED, Timing
from shared.settings import Rate

COUNTERS = ("enqueued", "sent", "failed", "retried", "deferred", "cancelled", "expired", "suppressed")
OLDEST_AMONG = 50
MOVING_MS = 2000
OFF = "off"

RateSource = Literal["api", "setting"]


@dataclass(frozen=True, slots=True)
class SenderState:
    """The state that a live sender reports: `reason` is why it is unavailable, `rate` its own setting ("10/1s", "off").

    `rate` is "" for a sender of an older version, which does not report it.
    """

    sender_id: str
    host: str
    concurrency: int
    available: bool
    reason: str
    rate: str


LOG_BEHIND = "log behind"
"""The reason that a sender reports while it fetches nothing because too many events wait for the logger."""


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """The jobs of a channel by place and status, live from Redis; ages in seconds by lane.

    `unserved` jobs wait in partitions that no live sender serves.
    """

    waiting: int
    waiting_by_lane: dict[str, int]
    active: int
    delayed: int
    scheduled: int
    completed: int
    failed: int
    paused: int
    pause_reason: str
    oldest_age_s: dict[str, float]
    counters: dict[str, int]
    events_lag: int
    rate_gap_us: int | None
    runtime_rate: str = ""
    senders: list[SenderState] = field(default_factory=list)
    unserved: int = 0

    @property
    def provider_available(self) -> bool:
        """Whether any live sender can reach its provider."""
        return any(sender.available for sender in self.senders)

    @property
    def rate_limited(self) -> bool:
        """Whether a rate is in force, set at run time or by the senders' own setting."""
        if self.rate_gap_us is not None:
            return self.rate_gap_us > 0
        return any(sender.rate not in {"", OFF} for sender in self.senders)

    @property
    def rate(self) -> tuple[str, RateSource] | None:
        """Return the rate in force and its source; None if no sender has reported its setting.

        If the settings of senders differ, each keeps its own, and the slowest is returned.
        """
        if self.runtime_rate:
            return self.runtime_rate, "api"
        own = [sender.rate for sender in self.senders if sender.rate]
        return (max(own, key=lambda rate: gap_us(Rate.parse(rate))), "setting") if own else None


def add_up(every: Sequence[ChannelStats]) -> ChannelStats:
    """Sum the statistics of a channel's partitions."""
    total = every[0]
    for one in every[1:]:
        total = _sum(total, one)
    return total


_SUMMED = ("waiting", "active", "delayed", "scheduled", "completed", "failed", "paused", "events_lag", "unserved")


def _sum(a: ChannelStats, b: ChannelStats) -> ChannelStats:
    lanes = a.oldest_age_s.keys() | b.oldest_age_s.keys()
    return replace(
        a,
        **{name: getattr(a, name) + getattr(b, name) for name in _SUMMED},
        waiting_by_lane={lane: waiting + b.waiting_by_lane[lane] for lane, waiting in a.waiting_by_lane.items()},
        pause_reason=a.pause_reason or b.pause_reason,
        oldest_age_s={lane: max(one.oldest_age_s.get(lane, 0.0) for one in (a, b)) for lane in lanes},
        counters={name: count + b.counters[name] for name, count in a.counters.items()},
        senders=list({sender.sender_id: sender for sender in (*b.senders, *a.senders)}.values()),
    )


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """Redis's memory in bytes; `maximum` is 0 where it has no limit."""

    used: int
    maximum: int


def gap_us(rate: Rate | None, timing: Timing = UNSCALED) -> int:
    """Return the µs between two starts for which no sliding period sees more than the rate, 0 for no limit.

    The period is extended by the jitter of starts on their way to the provider.
    """
    if rate is None:
        return 0
    return int((rate.period_s * 1_000_000 + timing.jitter_allowance_ms * 1000) / rate.count) + 1


def rate_text(rate: Rate | None) -> str:
    """Format a rate as the API shows it, "off" for no limit."""
    return OFF if rate is None else str(rate)


class Control:
    """Pauses, resumes, cancels and counts; `name` must be unique to the process."""

    def __init__(self, redis: Redis, name: str, timing: Timing = UNSCALED, clock: Clock | None = None) -> None:
        self._redis = redis
        self._timing = timing
        self._clock = clock or SystemClock()
        self._blasts = BlastStore(redis, f"{name}/control", timing)
        self._changes = Numbered(name, "changes")
        self._cancels = Numbered(name, "cancel")
        self.sweeper = Sweeper(redis, name, timing)

    async def pause_channel(self, channel: str, reason: str) -> None:
        """Pause a channel: its senders begin no more jobs. Safe to repeat; the last reason stays."""
        await self.pause_partitions(partitions(self._redis, channel), reason)

    async def resume_channel(self, channel: str) -> None:
        """Resume a paused channel. Safe to repeat."""
        await self.resume_partitions(partitions(self._redis, channel))

    async def pause_partitions(self, every: Sequence[Partition], reason: str) -> None:
        """Pause partitions of a channel; the first emits one `ChannelChanged` unless it was paused. Safe to repeat."""
        _, head = self._changes.next()
        await in_each(every, lambda one: one.call("pause_channel", (reason, head if one == every[0] else b"")))

    async def resume_partitions(self, every: Sequence[Partition]) -> None:
        """Resume partitions of a channel; the first emits one `ChannelChanged` if it was paused. Safe to repeat."""
        _, head = self._changes.next()
        await in_each(every, lambda one: one.call("resume_channel", (head if one == every[0] else b"",)))

    async def pause_blast(self, blast_id: str, reason: str) -> bool:
        """Pause a blast on all its channels; return False if it is unknown or has ended. Safe to repeat."""
        return await self._change(blast_id, "pause_blast", (blast_id, reason))

    async def resume_blast(self, blast_id: str) -> bool:
        """Resume a paused blast; return False if it is unknown or has ended. Safe to repeat."""
        return await self._change(blast_id, "resume_blast", (blast_id,))

    async def cancel_blast(self, blast_id: str) -> bool:
        """Cancel a blast and end its jobs that are not being sent; return False if it is unknown or has ended."""
        blast = await self._blasts.load(blast_id)
        if blast is None:
            return False

        async def cancel(partition: Partition) -> Any:
            _, head = self._cancels.next()
            return await partition.call("cancel_blast", (blast_id, head, self._timing.keep_ended_ms, "cancelled_at"))

        done = any(await in_each(self._partitions(blast), cancel))
        if done:
            await self.sweeper.sweep_blast(blast)
        return done

    async def _change(self, blast_id: str, script: str, args: tuple[str, ...]) -> bool:
        """Run a script on each of the blast's partitions; the script also emits the event of its change."""
        blast = await self._blasts.load(blast_id)
        if blast is None:
            return False

        async def change(partition: Partition) -> Any:
            _, head = self._changes.next()
            return await partition.call(script, (*args, head))

        return any(await in_each(self._partitions(blast), change))

    def _partitions(self, blast: Blast) -> list[Partition]:
        return [one for channel in blast.totals for one in partitions_of(self._redis, blast, channel)]

    async def cancel_job(self, job_id: str) -> str:
        """Cancel one job: `cancelled`, `processing` (it is being sent), or `unknown` (not in Redis, or no job id)."""
        parsed = parse_job_id(job_id)
        blast = await self._blasts.load(parsed.blast_id) if parsed else None
        if parsed is None or blast is None or parsed.channel not in blast.totals:
            return "unknown"
        index = blast.partition_of(parsed.channel, parsed.index)
        return await self.sweeper.cancel_job(partition_at(self._redis, parsed.channel, index), parsed)

    async def find_job(self, job: JobId) -> Job | None:
        """Return a job that waits or is being sent, None if it is not in Redis; long queues take seconds to search."""
        blast = await self._blasts.load(job.blast_id)
        if blast is None or job.channel not in blast.totals:
            return None
        index = blast.partition_of(job.channel, job.index)
        return await self.sweeper.find(partition_at(self._redis, job.channel, index), job)

    async def message_waits_for(self, job: JobId) -> str:
        """Return the limit that a job waits for and the number of jobs before it in the list, "" if it waits for none.

        A recipient's limit is not named.
        """
        job_id = f"{job.blast_id}:{job.index}:{job.channel}"
        for partition in partitions(self._redis, job.channel):
            redis: Any = partition.redis
            with translated("message waits for"):
                kept = await redis.hget(partition.keys.key("later:jobs"), job_id)
                limit = limit_of_later(kept) if kept else ""
                before = await redis.zrank(partition.keys.limit_list(limit), job_id) if limit else None
            if before is not None:
                whose = "" if job.channel == WHATSAPP.name else f"{limit}, "
                return f"{_limited_by(job.channel)}: {whose}{before} before it"
        return ""

    async def set_rate(self, channel: str, rate: Rate | None) -> None:
        """Change a channel's rate for all its senders, from the next start on; None for no limit."""
        await Rates(self._redis, channel).set(gap_us(rate, self._timing), rate_text(rate))

    async def clear_rate(self, channel: str) -> None:
        """Drop the rate set at run time, so that the senders' own setting applies again. Safe to repeat."""
        await Rates(self._redis, channel).set(0, "")

    async def stats(self) -> dict[str, ChannelStats]:
        """Count the jobs of every channel."""
        return {channel: await self.channel_stats(channel) for channel in CHANNELS}

    async def channel_stats(self, channel: str) -> ChannelStats:
        """Count the jobs of one channel, with one script call per partition; its rate is that of all of them."""
        every = partitions(self._redis, channel)
        stats = add_up([await self.partition_stats(one) for one in every])
        return stats if len(every) == 1 else await self._with_rate(stats, limits_partition(self._redis, channel))

    async def _with_rate(self, stats: ChannelStats, limits: Partition) -> ChannelStats:
        redis: Any = limits.redis
        with translated("rate"):
            gap, rate = await redis.hmget(limits.keys.key("config"), "gap_us", "rate")
        return replace(stats, rate_gap_us=None if gap is None else int(gap), runtime_rate=(rate or b"").decode())

    async def partition_stats(self, partition: Partition) -> ChannelStats:
        """Count the jobs of one partition, with one script call."""
        return _stats(orjson.loads(await partition.call("stats", (OLDEST_AMONG,))))

    async def server_memory(self) -> ServerMemory:
        """Return Redis's memory use and limit, over all servers of a cluster."""
        redis = self._redis
        with translated("memory"):
            servers = await redis.every_node() if isinstance(redis, QueueRedis) else [redis]
            every = [await server.info("memory") for server in servers]
        used = sum(int(info["used_memory"]) for info in every)
        return ServerMemory(used, sum(int(info.get("maxmemory", 0)) for info in every))

    async def waiting_for(
        self, progress: BlastProgress, counted: Mapping[str, ChannelStats] | None = None
    ) -> dict[str, str]:
        """Return for each channel what a blast's waiting jobs wait for, "" if nothing holds them.

        `counted` are the channels' counts, if the caller has just read them.
        """
        known = counted or {}
        return {
            channel: _waiting_for(
                channel, one, known.get(channel) or await self.channel_stats(channel), self._clock.now_ms()
            )
            for channel, one in progress.channels.items()
        }


def _limited_by(channel: str) -> str:
    return "recipient_limited" if channel == WHATSAPP.name else "domain_limited"


def _waiting_for(channel: str, one: ChannelProgress, stats: ChannelStats, now_ms: int) -> str:
    waiting = one.counts["queued"] + one.counts["scheduled"] + one.counts["retrying"]
    if not waiting or one.ended_at_ms:
        return ""
    moving = one.counts["processing"] > 0 or now_ms - one.moved_at_ms < MOVING_MS
    pause = one.paused or stats.pause_reason
    reasons = (
        (bool(pause), f"paused: {pause}"),
        (one.counts["scheduled"] > 0 and one.scheduled_at_ms > now_ms, "scheduled"),
        (not stats.senders or (not moving and waiting <= stats.unserved), "no_senders"),
        (not stats.provider_available, "provider_unavailable"),
        (any(sender.reason == LOG_BEHIND for sender in stats.senders), "log_behind"),
        (one.limited > 0, _limited_by(channel)),
        (moving and stats.rate_limited, "rate_limited"),
        (one.counts["retrying"] == waiting and not one.counts["processing"], "retrying"),
        (not moving and stats.waiting > waiting, "behind_others"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def channel_waits_for(stats: ChannelStats) -> str:
    """Return what a channel's jobs wait for, in the words of a blast's; "" if nothing holds them.

    `blasts_paused`: every waiting job belongs to a paused blast.
    """
    due = stats.waiting + stats.delayed
    if not due + stats.scheduled:
        return ""
    reasons = (
        (bool(stats.pause_reason), f"paused: {stats.pause_reason}"),
        (not stats.senders or 0 < due <= stats.unserved, "no_senders"),
        (not stats.provider_available, "provider_unavailable"),
        (any(sender.reason == LOG_BEHIND for sender in stats.senders), "log_behind"),
        (not due, "scheduled"),
        (not stats.waiting, "retrying"),
        (stats.paused >= stats.waiting, "blasts_paused"),
        (stats.rate_limited, "rate_limited"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def _stats(raw: dict[str, Any]) -> ChannelStats:
    waiting = dict.fromkeys(("high", "normal", "bulk"), 0) | (raw["waiting"] or {})
    counters = dict.fromkeys(COUNTERS, 0) | (raw["counters"] or {})
    oldest = {lane: max(0.0, (raw["now_ms"] - at) / 1000) for lane, at in (raw["oldest"] or {}).items()}
    senders = [_sender(name, orjson.loads(said)) for name, said in (raw["senders"] or {}).items()]
    return ChannelStats(
        waiting=sum(waiting.values()),
        waiting_by_lane=waiting,
        active=raw["active"],
        delayed=raw["delayed"],
        scheduled=raw["scheduled"],
        completed=counters["sent"],
        failed=counters["failed"],
        paused=raw["paused_jobs"],
        pause_reason=raw["paused"],
        oldest_age_s=oldest,
        counters=counters,
        events_lag=raw["events"],
        rate_gap_us=None if raw["gap_us"] < 0 else raw["gap_us"],
        runtime_rate=raw["rate"],
        senders=senders,
        unserved=0 if senders else sum(waiting.values()) + raw["delayed"],
    )


def _sender(sender_id: str, said: dict[str, Any]) -> SenderState:
    return SenderState(
        sender_id=sender_id,
        host=said.get("host", ""),
        concurrency=int(said.get("concurrency", 0)),
        available=bool(said.get("available", True)),
        reason=said.get("reason", ""),
        rate=str(said.get("rate", "")),
    )
