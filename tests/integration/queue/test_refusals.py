"""A server that answers but refuses calls: callers see the same error as while it is away, and wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from redis._parsers.base import BaseParser

from shared.errors import QueueFullError, QueueUnavailableError
from shared.queue.connection import Connection, connect, translated
from shared.queue.keys import PartitionKeys
from shared.queue.partitions import Partition
from tests.servers import Kind, RedisServer, free_port

_NAME = "Siti Rahmawati"


async def _one_command(client: Connection) -> None:
    with translated("one command"):
        await client.hset("{email}:config", "name", _NAME)


async def _script(client: Connection) -> None:
    await Partition(client, PartitionKeys("email")).call("pause_channel", ("by hand", b"\x93\xa1p\x01"))


async def _pipeline(client: Connection) -> None:
    with translated("pipeline"):
        async with client.pipeline(transaction=False) as pipe:
            pipe.hset("{email}:config", "name", _NAME)
            await pipe.execute()


async def _transaction(client: Connection) -> None:
    with translated("transaction"):
        async with client.pipeline(transaction=True) as pipe:
            pipe.hset("{email}:config", "name", _NAME)
            await pipe.execute()


_CALLS = [_one_command, _script, _pipeline, _transaction]


@pytest_asyncio.fixture(params=["valkey", "redis"])
async def refusing(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Kind, list[RedisServer]]]:
    """The kind of server, and the servers to stop at the end."""
    servers: list[RedisServer] = []
    yield request.param, servers
    for server in servers:
        server.destroy()


def _started(place: tuple[Kind, list[RedisServer]], options: Sequence[str]) -> RedisServer:
    kind, servers = place
    server = RedisServer(kind, options)
    servers.append(server)
    server.start()
    return server


_SITUATIONS = {
    "NOREPLICAS": ("--min-replicas-to-write", "1"),
    "CLUSTERDOWN": ("--cluster-enabled", "yes"),
    "READONLY": ("--replicaof", "127.0.0.1 {gone}"),
    "MASTERDOWN": ("--replicaof", "127.0.0.1 {gone}"),
}


@pytest.mark.parametrize("situation", _SITUATIONS)
@pytest.mark.parametrize("call", _CALLS)
async def test_a_refusal_counts_as_unavailable(
    refusing: tuple[Kind, list[RedisServer]], situation: str, call: object
) -> None:
    """Too few replicas, a cluster without slots, a replica with and without its master: unavailable, by any call."""
    options = [option.format(gone=free_port()) for option in _SITUATIONS[situation]]
    server = _started(refusing, options)
    if situation == "MASTERDOWN":
        server.command("CONFIG", "SET", "replica-serve-stale-data", "no")
    client = connect(server.url, max_connections=2)
    try:
        with pytest.raises(QueueUnavailableError) as caught:
            await call(client)  # type: ignore[operator]  # one of the coroutines above
    finally:
        await client.aclose()
    assert _NAME not in str(caught.value)


@pytest.mark.parametrize("call", _CALLS)
async def test_a_full_server_has_its_own_error(refusing: tuple[Kind, list[RedisServer]], call: object) -> None:
    """At maxmemory the error says that Redis is full; scripts that make room still run."""
    server = _started(refusing, ["--maxmemory", "1"])
    client = connect(server.url, max_connections=2)
    try:
        if call is _script:
            await _script(client)
            return
        with pytest.raises(QueueFullError):
            await call(client)  # type: ignore[operator]  # one of the coroutines above
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    "words",
    [
        "NOREPLICAS Not enough good replicas to write.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MOVED 866 127.0.0.1:7001",
        "ASK 866 127.0.0.1:7001",
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "NOPERM User kurir has no permissions to run the 'xadd' command",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "ERR max number of clients reached",
    ],
)
@pytest.mark.parametrize("piped", [False, True])
def test_every_error_of_a_refusing_server_is_known(words: str, piped: bool) -> None:
    """Callers wait on every answer by which a server refuses for now, alone or in a pipeline."""
    parser: Any = BaseParser
    error = parser.parse_error(words)
    if piped:
        # the driver prefixes an error in a pipeline with its command
        error.args = (f"Command # 1 (HSET a b {_NAME}) of pipeline caused error: {error.args}",)
    with pytest.raises(QueueUnavailableError) as caught, translated("anything"):
        raise error
    assert _NAME not in str(caught.value)
