"""The driver's client and its pools, as the queue uses them: bounded, without retries, with commands packed in C.

Calls of scripts share one connection to each server (`shared_connection`), and commands about single keys another one,
so that no call waits behind a large value. All other commands use the pool.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared.queue.shared_connection import SharedConnection
from shared.queue.unavailable import NOT_REDIS

_OF_SCRIPTS = frozenset({"EVALSHA", "EVAL"})
# they block nothing, and what they cost is the driver's way through its pool
_OF_KEYS = frozenset({"HGET", "HMGET", "HSETNX", "EXISTS", "PEXPIRE", "PERSIST", "ZADD", "ZREM", "XADD"})
_FOR_CACHES = {"keys"}
_CLOSED = "the handler is closed"


class QueueRedis(Redis):
    """The queue's Redis, and how it is used.

    It is one server, or the servers of a cluster (`clustered`). A channel's queue has this number of `partitions`; a
    blast counts as accepted once this number of `replicas` has it.
    """

    partitions = 1
    replicas = 0
    clustered = False
    _shared: SharedConnection | None = None
    _shared_by_keys: SharedConnection | None = None
    _is_closed = False

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply; raises the driver's errors."""
        name = args[0]
        if name in _OF_SCRIPTS and not options:
            if self._shared is None:
                self._shared = self._share()
            if not self._shared.is_jammed:
                return await self._shared.call(args)
        elif name in _OF_KEYS and options.keys() <= _FOR_CACHES:
            if self._shared_by_keys is None:
                self._shared_by_keys = self._share()
            if not self._shared_by_keys.is_jammed:
                reply = await self._shared_by_keys.call(args)
                read = self.response_callbacks.get(name)
                return reply if read is None else read(reply)
        driver: Any = super()
        try:
            return await driver.execute_command(*args, **options)
        finally:
            if self._is_closed:  # its connection was being opened when the others were closed
                await self.connection_pool.disconnect()

    def _share(self) -> SharedConnection:
        return SharedConnection(cast("BlockingConnectionPool", self.connection_pool))

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections; calls under way fail."""
        self._is_closed = True
        for shared in (self._shared, self._shared_by_keys):
            if shared is not None:
                await shared.aclose()
        await super().aclose(close_connection_pool)

    async def node_of(self, key: str) -> Redis:
        """Return the server that has a key now; raises the driver's errors."""
        del key
        return self

    async def every_node(self) -> list[Redis]:
        """Return the servers that have keys; raises the driver's errors."""
        return [self]

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        """Return the keys in groups, each of which one command may name."""
        return [list(keys)]


def open_pool(url: str, max_connections: int, socket_timeout_s: float) -> BlockingConnectionPool:
    """Make a pool of connections to the server at `url`; it waits for a free one. Raises ValueError."""
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=socket_timeout_s,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=socket_timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        protocol=2,
        driver_info=None,  # no CLIENT SETINFO: it costs a round trip, and a restricted user may not send it
    )
    return pool


class _OfQueue:
    """What the queue's connections do otherwise than the driver's: pack in C, and make sure that Redis answers.

    A begin or a settle has hundreds of arguments. Packing them in Python was more than a quarter of a sender's work. A
    server of another kind may answer each call with something that no caller expects.
    """

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in, then ask for an echo that only Redis gives; raises the driver's ConnectionError otherwise."""
        connection: Any = super()
        try:
            await connection.on_connect_check_health(check_health)
            await _expect_echo(self)
        except ResponseError as error:
            if not _is_unknown(error):
                raise
            raise RedisConnectionError(NOT_REDIS) from error

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command; raises the driver's ConnectionError if the server has closed the connection meanwhile.

        uvloop raises a RuntimeError then, where asyncio raises an OSError, and the driver translates only that.
        """
        connection: Any = super()
        try:
            await connection.send_packed_command(command, check_health)
        except RuntimeError as error:
            if _CLOSED not in str(error):
                raise
            raise RedisConnectionError(f"the server closed the connection: {error}") from error

    def pack_command(self, *args: Any) -> list[bytes]:
        name = args[0]
        if isinstance(name, str) and " " in name:
            args = (*name.split(), *args[1:])
        return [hiredis.pack_command(args)]


def _is_unknown(error: ResponseError) -> bool:
    return str(error).lower().startswith("unknown command")


async def _expect_echo(connection: Any) -> None:
    word = secrets.token_hex(8)
    await connection.send_command("PING", word, check_health=False)
    try:
        answer = await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        if _is_unknown(error):
            raise
        return  # Redis's own: a right that the user lacks, or a condition that the call itself may not meet
    if answer not in (word.encode(), b"PONG"):  # some proxies leave the word out; a list has no hash
        raise RedisConnectionError(NOT_REDIS)


def adapt_connections(pool: BlockingConnectionPool) -> None:
    """Make the pool's connections pack their commands in C and know their server, and check its options.

    Raises what the driver raises for an option that it does not know; its error quotes the option.
    """
    known: type[Any] = pool.connection_class
    pool.connection_class = type(known.__name__, (_OfQueue, known), {})
    # the driver checks some options with the first connection, and its error would quote them
    pool.connection_class(**pool.connection_kwargs)


def queue_redis(pool: BlockingConnectionPool, kind: type[QueueRedis] = QueueRedis) -> QueueRedis:
    """Return the client of a pool, which it owns."""
    client: Any = kind.from_pool(pool)
    return cast("QueueRedis", client)
