"""Redis Sentinel: a service name in place of an address, which the Sentinels translate at each new connection.

A failover breaks every connection to the old master, or makes the master refuse writes. In both cases the connection is
dropped, and the next one asks again. Nothing is cached, so nothing becomes stale. Replication under Sentinel is
asynchronous: writes that the old master had answered but not yet replicated are lost with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from shared.lifecycle import end_tasks
from shared.settings import split_redis_url

_DEFAULT_PORT = 26379
_SUFFIX = "+sentinel"
_OWN_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True, slots=True)
class Master:
    """The master of a service: `url` has everything but its address, which `get_master_address` asks for.

    The driver's connections for Sentinel call it, and read the two flags.
    """

    url: str
    service: str
    sentinels: Sequence[tuple[str, int]]
    options: dict[str, Any]
    is_master: bool = True
    check_connection: bool = False

    async def get_master_address(self) -> tuple[str, int]:
        """Return the master that the quickest Sentinel names; raises the driver's ConnectionError if none does.

        All are asked at once, so one that is frozen costs nothing while another answers.
        """
        asked = {asyncio.create_task(self._ask(host, port)): f"{host}:{port}" for host, port in self.sentinels}
        try:
            failures = []
            pending = set(asked)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        return task.result()
                    if not isinstance(error, RedisError | OSError):
                        raise error
                    failures.append(f"{asked[task]}: {error}")
            raise RedisConnectionError(f"no Sentinel names a master: {'; '.join(failures)}")
        finally:
            await end_tasks(list(asked))
            for task in asked:
                if not task.cancelled():
                    task.exception()  # read the errors of those that failed after the answer, or asyncio would log them

    async def _ask(self, host: str, port: int) -> tuple[str, int]:
        """Ask one Sentinel; the driver accepts no master that this Sentinel takes for dead."""
        typed: Any = Sentinel  # the driver has no types here
        sentinel = typed([(host, port)], sentinel_kwargs=self.options)
        try:
            address, master_port = await sentinel.discover_master(self.service)
            return str(address), int(master_port)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise RedisConnectionError("its answer is not that of a Sentinel") from error
        finally:
            # shielded: a task that is no longer needed is cancelled, and again if that takes long
            await asyncio.shield(sentinel.aclose())


def read_sentinel_url(url: str, timeout_s: float) -> Master | None:
    """Read `redis+sentinel://[user:password@]host[:port],…/service[/db]`; None for any other kind of URL.

    User and password are the master's; the Sentinels' own are the query parameters `sentinel_username` and
    `sentinel_password`. With `rediss+sentinel` the Sentinels speak TLS as well. Raises ValueError.
    """
    if _SUFFIX not in url.partition("://")[0]:
        return None
    parts = split_redis_url(url)
    scheme = parts.scheme.removesuffix(_SUFFIX)
    credentials, at, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise ValueError("a Sentinel URL is redis+sentinel://host:port,host:port/service/db")
    query = dict(parse_qsl(parts.query))
    options: dict[str, Any] = {ours: query.pop(name) for name, ours in _OWN_OPTIONS.items() if name in query}
    if scheme == "rediss":
        options |= {"ssl": True, **{name: value for name, value in query.items() if name.startswith("ssl_")}}
    options |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    options |= {"retry": Retry(NoBackoff(), 0), "driver_info": None}
    return Master(
        # a placeholder for the host: each connection replaces it
        url=f"{scheme}://{credentials}{at}localhost/{database or '0'}?{urlencode(query)}",
        service=service,
        sentinels=tuple(_address(host) for host in hosts.split(",")),
        options=options,
    )


def follow_master(pool: BlockingConnectionPool, master: Master) -> None:
    """Make the pool open each further connection to the current master."""
    encrypted = issubclass(pool.connection_class, SSLConnection)
    pool.connection_class = SentinelManagedSSLConnection if encrypted else SentinelManagedConnection
    pool.connection_kwargs["connection_pool"] = master


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text.strip()}")
    if not parts.hostname:
        raise ValueError("the address of a Sentinel is empty")
    return parts.hostname, parts.port or _DEFAULT_PORT
