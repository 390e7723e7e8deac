"""Checks whether a Redis keeps the writes that it accepts: its version, its eviction policy, and its append-only file.

INFO reports most of it to any user. `appendfsync` needs CONFIG GET, which a user with the rights of operations.md may
not send and which managed services do not have. A named user usually has restricted rights, and each refusal would
appear in Redis's ACL log like an attack. So only the user `default` asks. The result lists what could not be checked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from shared.queue.client import QueueRedis
from shared.queue.connection import find_version_problem, translated

REASONS = ("version", "eviction", "append_only_file", "write_failing", "fsync")


@dataclass(frozen=True, slots=True)
class Danger:
    """A way to lose accepted messages; `reason` is one of REASONS, `advice` is what to do."""

    reason: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"


@dataclass(frozen=True, slots=True)
class Safety:
    """The result of a check; `unchecked` are the REASONS that could not be checked, `notes` deliberate choices."""

    dangers: tuple[Danger, ...] = ()
    unchecked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


_PARTS = ("dangers", "unchecked", "notes")


class SafetyCheck:
    """Checks a Redis; it sends CONFIG GET only as the user `default`, and not again after a refusal."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._may_ask = redis.connection_pool.connection_kwargs.get("username") in {None, "", "default"}

    async def run(self) -> Safety:
        """Check once, every server of a cluster; raises QueueUnavailableError."""
        redis = self._redis
        with translated("cluster"):
            servers = await redis.every_node() if isinstance(redis, QueueRedis) else [redis]
        found = [await self._check(server) for server in servers]
        if len(found) == 1:
            return found[0]
        return Safety(*(tuple(dict.fromkeys(part for one in found for part in getattr(one, name))) for name in _PARTS))

    async def _check(self, server: Redis) -> Safety:
        info = await self._ask("INFO", server.info)
        if info is None:
            return Safety(unchecked=REASONS)
        return judge(info, await self._appendfsync(server))

    async def _appendfsync(self, server: Redis) -> str:
        """Return the setting, "" if it cannot be read."""
        found = None
        if self._may_ask:
            found = await self._ask("CONFIG GET", lambda: server.config_get("appendfsync"))
            self._may_ask = found is not None
        return str(found.get("appendfsync", "")) if found else ""

    async def _ask(self, name: str, command: Callable[[], Awaitable[Mapping[Any, Any]]]) -> Mapping[Any, Any] | None:
        """Return the answer, None if the user lacks the right or the server does not support the command."""
        try:
            with translated(name):
                try:
                    return await command()
                except NoPermissionError:
                    return None
        except ResponseError:
            return None  # managed services each have their own error for it


def judge(info: Mapping[str, Any], appendfsync: str) -> Safety:
    """Return the dangers that INFO's fields and `appendfsync` ("" if unknown) show. Pure."""
    dangers = [
        _version(info),
        _eviction(info),
        _append_only_file(info),
        _write_failing(info),
        _fsync(info, appendfsync),
    ]
    seen = {
        "version": "redis_version" in info or "valkey_version" in info,
        "eviction": "maxmemory_policy" in info,
        "append_only_file": "aof_enabled" in info,
        "write_failing": "aof_last_write_status" in info,
        "fsync": bool(appendfsync) or not _appends(info),
    }
    notes = ("appendfsync everysec: a power cut may take the last second of accepted messages",)
    return Safety(
        dangers=tuple(danger for danger in dangers if danger is not None),
        unchecked=tuple(reason for reason in REASONS if not seen[reason]),
        notes=notes if appendfsync == "everysec" and _appends(info) else (),
    )


def _appends(info: Mapping[str, Any]) -> bool:
    return str(info.get("aof_enabled", "0")) == "1"


def _version(info: Mapping[str, Any]) -> Danger | None:
    problem = find_version_problem(info)
    return Danger("version", problem, "upgrade it") if problem else None


def _eviction(info: Mapping[str, Any]) -> Danger | None:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return None
    what = f"Redis may delete queued messages to make room (maxmemory-policy {policy})"
    return Danger("eviction", what, "set maxmemory-policy noeviction")


def _append_only_file(info: Mapping[str, Any]) -> Danger | None:
    if "aof_enabled" not in info or _appends(info):
        return None
    what = "Redis keeps no append-only file: a restart loses what was accepted since its last snapshot, or everything"
    return Danger("append_only_file", what, "set appendonly yes and appendfsync always")


def _write_failing(info: Mapping[str, Any]) -> Danger | None:
    if str(info.get("aof_last_write_status", "ok")) == "ok" or not _appends(info):
        return None
    return Danger("write_failing", "Redis could not write its append-only file", "check its disk and its log")


def _fsync(info: Mapping[str, Any], appendfsync: str) -> Danger | None:
    if appendfsync != "no" or not _appends(info):
        return None
    what = "Redis lets the operating system choose when its append-only file reaches the disk (appendfsync no)"
    return Danger("fsync", what, "set appendfsync always")
