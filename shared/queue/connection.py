"""Connections to Redis or Valkey: no hidden retries, bounded pools, one translation of the driver's errors.

redis-py retries commands by default; when a reply was lost twice, one XADD became three entries. Here only callers
retry, and their scripts are safe to repeat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    AuthenticationWrongNumberOfArgsError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.errors import KurirError, QueueFullError, QueueUnavailableError, SettingsError
from shared.queue.client import QueueRedis, adapt_connections, open_pool, queue_redis
from shared.queue.cluster import is_cluster_url, open_cluster
from shared.queue.sentinel import follow_master, read_sentinel_url
from shared.queue.unavailable import advice_on, why, words_of
from shared.settings import split_redis_url
from shared.urls import ENCODE_HINT

Connection = Redis
"""All that the rest of Kurir uses of the driver: a handle from `connect`, to pass on and to close."""


RETRY_WHEN_FULL_S = 30
OLDEST_REDIS = (7, 0, 5)
OLDEST_VALKEY = (8, 0, 0)


class UnsupportedServerError(KurirError):
    """The server is too old for the scripts: Redis 7.0.5 or Valkey 8 is the baseline."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server by its INFO; `uptime_ms` is since its last start, `maxmemory` in bytes, 0 for no limit."""

    name: str
    version: str
    uptime_ms: int
    maxmemory: int = 0


def connect(url: str, *, max_connections: int = 16, socket_timeout_s: float = 5.0, partitions: int = 1) -> QueueRedis:
    """Open a pool to the server at `url`; answers are bytes, and no command is ever repeated by the client.

    `redis+sentinel://host:port,host:port/service/db` (or `rediss+sentinel`) finds the server by asking the Sentinels.
    `redis+cluster://host:port,host:port` (or `rediss+cluster`) is a cluster, of which these are some nodes; each node
    has a pool of its own.
    Raises SettingsError for an invalid URL; the error does not quote it, because it may contain a password.
    """
    try:
        connection = _open(url, max_connections, socket_timeout_s)
    except (ValueError, TypeError, AttributeError):
        raise SettingsError([f"KURIR_REDIS_URL has an option that the client does not know; {ENCODE_HINT}"]) from None
    connection.partitions = partitions
    return connection


def _open(url: str, max_connections: int, socket_timeout_s: float) -> QueueRedis:
    split_redis_url(url)
    if is_cluster_url(url):
        return open_cluster(url, max_connections, socket_timeout_s)
    found = read_sentinel_url(url, socket_timeout_s)
    pool = open_pool(found.url if found else url, max_connections, socket_timeout_s)
    if found:
        follow_master(pool, found)
    adapt_connections(pool)
    return queue_redis(pool)


# The server answers, but does not serve the call now. MASTERDOWN is a ClusterDownError, MOVED an AskError.
_REFUSALS = (
    ReadOnlyError,
    ClusterDownError,
    TryAgainError,
    AskError,
    NoPermissionError,
    AuthenticationWrongNumberOfArgsError,
)
# Refusals without a class in the driver, by the first word of the error. WAIT is a replica's, of that command.
_REFUSAL_CODES = frozenset({"LOADING", "NOREPLICAS", "MISCONF", "BUSY", "UNBLOCKED", "WAIT"})


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise Kurir's errors in place of the driver's; `action` names the operation.

    A server that refuses calls for now (too few replicas, a failover, a full disk, missing rights), or that is another
    than the URL says, counts as unavailable: callers wait and try again, as they do while it is away.
    """
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, *_REFUSALS, OSError) as error:
        raise QueueUnavailableError(f"{action}: {words_of(error)}", why(error)) from error
    except OutOfMemoryError as error:
        raise QueueFullError("Redis has reached its memory limit", RETRY_WHEN_FULL_S) from error
    except ResponseError as error:
        words = words_of(error)
        code = words.partition(" ")[0]
        if code == "OOM":
            raise QueueFullError("Redis has reached its memory limit", RETRY_WHEN_FULL_S) from error
        if code in _REFUSAL_CODES or advice_on(error):
            raise QueueUnavailableError(f"{action}: {words}", why(error)) from error
        raise
    except RedisError as error:
        raise QueueUnavailableError(f"{action}: {words_of(error)}", why(error)) from error


async def server_info(redis: Redis, *sections: str) -> ServerInfo:
    """Return the server's name, version, uptime and memory limit; raises QueueUnavailableError.

    `server` and `memory` are the sections that have them. Only supported servers can be asked for several; reading all
    of them takes a millisecond.
    """
    with translated("INFO"):
        info = await redis.info(*sections)
    valkey = info.get("valkey_version")
    return ServerInfo(
        name="valkey" if valkey else "redis",
        version=str(valkey or info["redis_version"]),
        uptime_ms=int(info["uptime_in_seconds"]) * 1000,
        maxmemory=int(info.get("maxmemory", 0)),
    )


async def check_server(redis: Redis) -> ServerInfo:
    """Return the server's description; raises UnsupportedServerError with a one-line message if it is too old."""
    info = await server_info(redis)
    problem = find_version_problem({f"{info.name}_version": info.version})
    if problem:
        raise UnsupportedServerError(problem)
    return info


def find_version_problem(info: Mapping[str, Any]) -> str:
    """Return why the server of an INFO is too old for the scripts, "" if it is not, or gives no version."""
    name = "valkey" if info.get("valkey_version") else "redis"
    text = str(info.get(f"{name}_version", ""))
    found = re.match(r"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", text)
    oldest = OLDEST_VALKEY if name == "valkey" else OLDEST_REDIS
    if found is None or tuple(int(part or 0) for part in found.groups()) >= oldest:
        return ""
    return f"{name} {text} is too old: at least {'.'.join(map(str, oldest))} is needed"
