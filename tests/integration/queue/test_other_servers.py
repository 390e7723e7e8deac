"""A server at KURIR_REDIS_URL that is not Redis: every kind of call counts as unavailable, with what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shared.errors import CANNOT_BE_REACHED, QueueUnavailableError
from shared.queue.connection import Connection, connect, server_info, translated
from shared.queue.scripts import Script
from shared.queue.unavailable import NOT_REDIS
from tests.raw_servers import serving_raw
from tests.servers import RedisServer

_SCRIPT = Script("nothing", "return 1")


async def _call_script(redis: Connection) -> object:
    return await _SCRIPT.call(redis, ["k"], [])


async def _pipeline(redis: Connection) -> object:
    with translated("pipeline"):
        pipeline = redis.pipeline(transaction=False)
        pipeline.get("a")
        pipeline.get("b")
        return await pipeline.execute()


async def _read(redis: Connection) -> object:
    with translated("read"):
        return await redis.xread({"events": "0"})


CALLS: list[Callable[[Connection], Awaitable[object]]] = [_call_script, _pipeline, _read, server_info]


def _answering(
    answer: bytes, *, greets: bool = False
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if greets:
            writer.write(answer)
        while asked := await reader.read(65536):
            writer.write(asked if answer == b"echo" else answer)
            await writer.drain()

    return serve


async def _refused(serve: object, scheme: str = "redis") -> list[QueueUnavailableError]:
    errors = []
    async with serving_raw(serve) as url:  # type: ignore[arg-type]  # a handler
        redis = connect(f"{scheme}://:password@{url.removeprefix('http://')}", socket_timeout_s=1)
        for call in CALLS:
            with pytest.raises(QueueUnavailableError) as raised:
                await call(redis)
            errors.append(raised.value)
        await redis.aclose()
    assert not any("password" in f"{error}{error.why}" for error in errors if "name or the password" not in error.why)
    return errors


@pytest.mark.parametrize("answer", [b"$-1\r\n", b":1\r\n", b"*0\r\n", b"$2\r\nOK\r\n", b"*1\r\n*1\r\n+a\r\n"])
async def test_a_server_that_answers_everything_alike_is_not_redis(answer: bytes) -> None:
    """They reached callers that expected others: senders, the logger and receipts ended with a traceback."""
    logged_in = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal logged_in
        while asked := await reader.read(65536):
            logged_in = b"AUTH" in asked
            writer.write(b"+OK\r\n" if logged_in else answer)
            await writer.drain()

    assert {error.why for error in await _refused(serve)} == {NOT_REDIS}


@pytest.mark.parametrize(
    "answer",
    [b"+OK\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"220 mail ESMTP\r\n", b"echo",
     b"ERROR\r\n", b"\x4a\x00\x00\x00\x0a8.0.30\x00", b"-ERR unknown command\r\n"],
)  # fmt: skip
@pytest.mark.parametrize("greets", [False, True])
async def test_another_protocol_is_not_redis(answer: bytes, greets: bool) -> None:
    """HTTP, SSH, SMTP, memcached, MySQL, an echo: they are not waited for in silence."""
    if greets and answer == b"echo":
        return
    for error in await _refused(_answering(answer, greets=greets)):
        assert error.why in {NOT_REDIS, "Redis refuses the user name or the password in KURIR_REDIS_URL"}, str(error)


async def test_a_server_that_closes_at_once_cannot_be_reached() -> None:
    """It may be a Redis behind a proxy, so nothing more is said."""

    async def serve(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        return

    assert {error.why for error in await _refused(serve)} == {CANNOT_BE_REACHED}


@pytest.mark.parametrize("scheme", ["redis+cluster"])
async def test_the_nodes_of_a_cluster_are_checked_too(scheme: str) -> None:
    """A node that is not Redis is named as such, among those that do not answer."""
    for error in await _refused(_answering(b"*0\r\n"), scheme):
        assert error.why != CANNOT_BE_REACHED


async def test_a_server_that_is_not_a_sentinel_names_no_master() -> None:
    """Its answers used to raise whatever the driver stumbled over."""
    async with serving_raw(_answering(b"+OK\r\n")) as url:  # type: ignore[arg-type]  # a handler
        redis = connect(f"redis+sentinel://{url.removeprefix('http://')}/mymaster/0", socket_timeout_s=1)
        with pytest.raises(QueueUnavailableError, match="no Sentinel names a master"):
            await _call_script(redis)
        await redis.aclose()


@pytest.mark.parametrize("rights", ["+eval +evalsha +get", "+@all -ping"])
async def test_a_user_that_may_not_ping_is_served(rights: str) -> None:
    """The check needs no right of its own: a refusal of it is Redis's answer as well."""
    server = RedisServer("valkey")
    server.start()
    try:
        server.command("ACL", "SETUSER", "few", "on", ">pw", "~*", *rights.split())
        redis = connect(server.url.replace("redis://", "redis://few:pw@"))
        assert await _SCRIPT.call(redis, ["k"], []) == 1
        await redis.aclose()
    finally:
        server.destroy()
