"""The connection that the calls of scripts share, with real servers that are killed, frozen, paused or demoted.

And one of the pool, which the other calls take.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from shared.errors import QueueUnavailableError
from shared.queue.client import QueueRedis
from shared.queue.connection import connect, translated
from shared.queue.scripts import Script
from tests.servers import PATIENCE_S, Kind, RedisServer, read_info, wait_for

ADD = Script("add", "redis.call('RPUSH', KEYS[1], ARGV[1]) return ARGV[1]")
_TIMEOUT_S = 1.0


async def add(redis: QueueRedis, text: str) -> Any:
    """Call a script that adds its argument to a list, and returns it."""
    return await ADD.call(redis, ["list"], [text])


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that also listens on a socket in the file system."""
    kind: Kind = request.param
    path = tmp_path_factory.mktemp(kind) / "redis.sock"
    server = RedisServer(kind, ["--unixsocket", str(path)])
    server.start()
    yield server
    server.destroy()


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[QueueRedis]:
    """A client that has called a script, on an empty server, which may stand still on a busy machine."""
    assert server.command("FLUSHALL") == b"+OK"
    client = connect(server.url, socket_timeout_s=PATIENCE_S)
    assert await add(client, "first") == b"first"
    yield client
    await client.aclose()


@pytest.fixture
async def hasty(client: QueueRedis, server: RedisServer) -> AsyncIterator[QueueRedis]:
    """Another client, whose calls soon time out."""
    del client  # it has emptied the server
    hasty = connect(server.url, socket_timeout_s=_TIMEOUT_S)
    await wait_for(lambda: eventually(hasty, "first"), what="its connection")
    yield hasty
    await hasty.aclose()


async def eventually(client: QueueRedis, text: str) -> bool:
    """Return whether a call succeeds."""
    try:
        return bool(await add(client, text) == text.encode())
    except QueueUnavailableError:
        return False


async def stored(client: QueueRedis) -> list[bytes]:
    """Return what the calls have added."""
    typed: Any = client
    found: list[bytes] = await typed.lrange("list", 0, -1)
    return found


async def test_a_killed_server_is_found_again(client: QueueRedis, server: RedisServer) -> None:
    """With SIGKILL: the calls under way fail, and those after the restart succeed."""
    server.command("CLIENT", "PAUSE", "60000", "WRITE")  # it takes the calls, and answers none before it dies
    calls = [asyncio.create_task(add(client, "lost")) for _ in range(3)]
    await asyncio.sleep(0)
    server.kill()
    try:
        answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE_S)
    finally:
        server.start()
    assert [type(one) for one in answers] == [QueueUnavailableError] * 3
    assert await add(client, "second") == b"second"
    assert (await stored(client))[-1] == b"second"


async def test_a_killed_connection_is_replaced(client: QueueRedis, server: RedisServer) -> None:
    """CLIENT KILL, as an operator or Sentinel sends it: no later call gets a reply of the old connection."""
    server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await wait_for(lambda: eventually(client, "second"), what="another connection")
    assert await asyncio.gather(*(add(client, str(one)) for one in range(20))) == [b"%d" % one for one in range(20)]


async def test_a_frozen_server_gives_no_call_the_reply_of_another(
    client: QueueRedis, hasty: QueueRedis, server: RedisServer
) -> None:
    """Calls that time out may have been run once each; those after them get their own replies."""
    server.pause()
    try:
        answers = await asyncio.gather(*(add(hasty, f"old {one}") for one in range(5)), return_exceptions=True)
        assert [type(one) for one in answers] == [QueueUnavailableError] * 5
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await add(hasty, "cancelled")
    finally:
        server.resume()

    async def get_their_own() -> bool:
        answers = await asyncio.gather(*(add(hasty, str(one)) for one in range(20)), return_exceptions=True)
        late = [one for one in answers if isinstance(one, QueueUnavailableError)]
        assert late or answers == [b"%d" % one for one in range(20)]
        return not late

    await wait_for(get_their_own, what="another connection")
    found = await stored(client)
    assert all(found.count(f"old {one}".encode()) <= 1 for one in range(5))


async def test_a_paused_server_delays_calls(client: QueueRedis, hasty: QueueRedis, server: RedisServer) -> None:
    """CLIENT PAUSE: a call waits for less than its time-out, and fails after that."""
    server.command("CLIENT", "PAUSE", "300", "WRITE")
    assert await add(client, "late") == b"late"
    server.command("CLIENT", "PAUSE", "60000", "WRITE")
    try:
        with pytest.raises(QueueUnavailableError, match="no reply within 1 s"):
            await add(hasty, "paused")
    finally:
        server.command("CLIENT", "UNPAUSE")
    await wait_for(lambda: eventually(hasty, "new"), what="another connection")


async def test_a_users_rights_and_resp3_hold_for_it(client: QueueRedis, server: RedisServer) -> None:
    """The driver logs it in; an error of missing rights reaches the caller and costs no connection."""
    assert server.command("ACL", "SETUSER", "kurir", "on", ">secret", "~list", "+@all") == b"+OK"
    for options in ("", "?protocol=3"):
        other = connect(f"redis://kurir:secret@127.0.0.1:{server.port}/0{options}")
        try:
            assert await add(other, "allowed") == b"allowed"
            with pytest.raises(QueueUnavailableError, match=r"permission|can.t access"):
                await ADD.call(other, ["other"], ["x"])
            assert await add(other, "allowed") == b"allowed"
        finally:
            await other.aclose()
    assert (await stored(client)).count(b"allowed") == 4


async def test_a_socket_in_the_file_system_serves(client: QueueRedis) -> None:
    """The driver opens it as any other connection."""
    settings: Any = await client.config_get("unixsocket")
    other = connect(f"unix://{settings['unixsocket']}")
    try:
        assert await add(other, "local") == b"local"
    finally:
        await other.aclose()


@pytest.mark.parametrize("code", ["NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "MISCONF", "TRYAGAIN", "BUSY"])
async def test_refusals_reach_the_caller_and_leave_the_connection(client: QueueRedis, code: str) -> None:
    """The server did not run the script; calls beside it go on."""
    refuse = Script("refuse", "return redis.error_reply(ARGV[1])")
    wire = client._shared._wire if client._shared else None
    assert wire is not None
    answers = await asyncio.gather(
        refuse.call(client, ["list"], [f"{code} for now"]), add(client, "beside"), return_exceptions=True
    )
    assert isinstance(answers[0], QueueUnavailableError)
    assert answers[1] == b"beside"
    assert not wire.lost


async def test_connection_that_opens_while_its_client_closes_is_closed(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node of a cluster that loses its slots is left while a connection to it is being opened."""
    reached, go_on, open_connection = asyncio.Event(), asyncio.Event(), asyncio.open_connection

    async def slowly(*args: Any, **options: Any) -> Any:
        opened = await open_connection(*args, **options)
        reached.set()
        await go_on.wait()
        return opened

    monkeypatch.setattr(asyncio, "open_connection", slowly)
    before = read_info(server.port, "clients")["connected_clients"]
    client = connect(server.url, socket_timeout_s=PATIENCE_S)
    reading = asyncio.create_task(stored(client))
    await reached.wait()
    await client.aclose()
    go_on.set()
    await asyncio.wait([reading])
    reading.exception()
    await wait_for(lambda: read_info(server.port, "clients")["connected_clients"] == before)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_connection_of_the_pool_that_was_just_closed_is_lost(
    loop: Callable[[], asyncio.AbstractEventLoop], server: RedisServer
) -> None:
    """A server that died between the choice of a connection and the write ended a service: uvloop has its own error."""

    async def write() -> None:
        redis = connect(server.url)
        pool: Any = redis.connection_pool
        connection = await pool.get_connection()
        stream = connection._writer
        stream.transport.abort()
        with suppress(OSError):
            await stream.wait_closed()
        with pytest.raises(QueueUnavailableError), translated("read events"):
            await connection.send_command("PING")
        await pool.release(connection)
        assert await redis.ping()
        await redis.aclose()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(write())
