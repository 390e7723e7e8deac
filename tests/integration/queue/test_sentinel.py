"""Redis Sentinel: real Sentinels, a real failover, and the URL that hides both from the services."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Iterator
from contextlib import suppress

import pytest
from redis.exceptions import ResponseError

from shared.errors import QueueUnavailableError
from shared.queue.connection import connect, translated
from shared.queue.scripts import Script
from shared.queue.sentinel import read_sentinel_url
from shared.urls import without_password
from tests.sentinels import FAILOVER_TIMEOUT_S, SERVICE, Sentinel
from tests.servers import RedisServer, free_port, wait_for

_SET = Script("set", "return redis.call('SET', KEYS[1], ARGV[1])")
_TIME_OUT_S = 5.0  # the default of `connect`


def _sentinel(master_port: int) -> Sentinel:
    """A Sentinel with its own password, which decides on a failover without others."""
    own, masters = "requirepass sentinels-own-password", f"sentinel auth-pass {SERVICE} the-masters-password"
    return Sentinel(master_port, lines=(own, masters))


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    secret = ("--requirepass", "the-masters-password", "--masterauth", "the-masters-password")
    master = RedisServer(options=secret)
    master.start()
    replica = RedisServer(options=[*secret, "--replicaof", f"127.0.0.1 {master.port}"])
    replica.start()
    yield master, replica
    master.destroy()
    replica.destroy()


@pytest.fixture
def sentinel(pair: tuple[RedisServer, RedisServer]) -> Iterator[Sentinel]:
    watching = _sentinel(pair[0].port)
    yield watching
    watching.destroy()


def _url(*sentinel_ports: int) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in sentinel_ports)
    return f"redis+sentinel://:the-masters-password@{hosts}/{SERVICE}/0?sentinel_password=sentinels-own-password"


async def test_the_queue_follows_a_failover(pair: tuple[RedisServer, RedisServer], sentinel: Sentinel) -> None:
    """The client writes to the master; after it is killed, the same client writes to the replica that took over."""
    master, replica = pair
    client = connect(_url(free_port(), sentinel.port), max_connections=2)

    async def write(value: str) -> bool:
        try:
            with translated("SET"):
                return bool(await client.set("where", value) and await _SET.call(client, ["where"], [value]))
        except QueueUnavailableError:
            return False

    async def replicated() -> bool:
        info = await client.info("replication")
        return bool(info["connected_slaves"] == 1 and info["slave0"]["state"] == "online")

    await wait_for(lambda: write("first"), what="Sentinel to name the master")
    assert (await client.info("server"))["tcp_port"] == master.port
    await wait_for(replicated, what="the replica to have caught up")
    await client.wait(1, 5000)
    master.kill()
    await _fail_over(sentinel)
    await wait_for(lambda: write("second"), FAILOVER_TIMEOUT_S, "Sentinel to promote the replica")
    assert (await client.info("server"))["tcp_port"] == replica.port
    await client.aclose()


async def test_scripts_leave_a_demoted_master(pair: tuple[RedisServer, RedisServer], sentinel: Sentinel) -> None:
    """Sentinel makes the master a replica, which is alive: the next calls of scripts go to the new master."""
    master, replica = pair
    client = connect(_url(sentinel.port))

    async def written_to(server: RedisServer) -> bool:
        value = str(time.monotonic())
        new = connect(f"redis://:the-masters-password@127.0.0.1:{server.port}")
        try:
            written = await _succeeds(_SET.call(client, ["where"], [value]))
            with translated("read back"):
                return written and await new.get("where") == value.encode() and (await new.role())[0] == b"master"
        except QueueUnavailableError:  # a server whose role changes closes its connections
            return False
        finally:
            await new.aclose()

    await wait_for(lambda: written_to(master), what="Sentinel to name the master")
    await _fail_over(sentinel)
    await wait_for(lambda: written_to(replica), FAILOVER_TIMEOUT_S, "the replica to be the master")
    await client.aclose()


async def _fail_over(sentinel: Sentinel) -> None:
    """Tell a Sentinel to fail over, which takes a while to know a good replica."""
    asked = connect(f"redis://:sentinels-own-password@127.0.0.1:{sentinel.port}")
    command = ("SENTINEL", "FAILOVER", SERVICE)
    await wait_for(lambda: _succeeds(asked.execute_command(*command)), FAILOVER_TIMEOUT_S, "a good replica")
    await asked.aclose()


async def _succeeds(step: Awaitable[object]) -> bool:
    try:
        with translated("step"):
            return bool(await step)
    except (QueueUnavailableError, ResponseError):
        return False


@pytest.mark.timing
async def test_a_frozen_sentinel_costs_nothing(pair: tuple[RedisServer, RedisServer], sentinel: Sentinel) -> None:
    """Sentinels are asked at once: with a frozen one named first, a connection opens as fast as without it."""
    frozen = _sentinel(pair[0].port)
    try:
        await wait_for(lambda: _answers(sentinel.port), what="Sentinel to name the master")
        frozen.freeze()
        client = connect(_url(frozen.port, sentinel.port), max_connections=2)
        started = time.monotonic()
        with translated("GET"):
            await client.get("anything")
        took_s = time.monotonic() - started
        await client.aclose()
    finally:
        frozen.destroy()
    assert took_s < _TIME_OUT_S / 2


async def test_queries_to_sentinels_leave_no_connections(
    pair: tuple[RedisServer, RedisServer], sentinel: Sentinel
) -> None:
    """A request leaves no connection and no failure, cancelled at any moment, with late or silent Sentinels.

    A connection that is left open makes this test fail by its warning, when it is collected.
    """
    others = [_sentinel(pair[0].port) for _ in range(2)]
    loose: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loose.append(context))
    try:
        ports = [sentinel.port, *(one.port for one in others)]
        await wait_for(lambda: _answers(*ports), what="Sentinel to name the master")
        for number in range(150):
            with suppress(TimeoutError):
                async with asyncio.timeout(number / 10_000):
                    await _answers(*ports)
        pair[0].kill()
        for _ in range(100):
            await _answers(*ports)
    finally:
        for one in others:
            one.destroy()
    gc.collect()
    assert not loose


async def _answers(*ports: int) -> bool:
    client = connect(_url(*ports), max_connections=1)
    try:
        with translated("PING"):
            return bool(await client.ping())
    except QueueUnavailableError:
        return False
    finally:
        # shielded: a cancelled close would leave the connection open, by the test's own fault
        await asyncio.shield(client.aclose())


async def test_silent_sentinels_make_the_queue_unavailable() -> None:
    """If no Sentinel answers, callers get an error, with every reason, on which they wait and try again."""
    port = free_port()
    client = connect(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}")
    with pytest.raises(QueueUnavailableError, match=f"no Sentinel names a master: 127.0.0.1:{port}"), translated("GET"):
        await client.get("anything")
    await client.aclose()


def test_the_url_names_all_sentinels() -> None:
    """Ports default to 26379, IPv6 addresses are in brackets, and the master's options stay in its own URL."""
    found = read_sentinel_url("rediss+sentinel://u:p@one,[::1]:9/svc/3?ssl_ca_certs=/ca.pem&sentinel_username=s", 1.0)
    assert found is not None
    assert found.sentinels == (("one", 26379), ("::1", 9))
    assert (found.url, found.service) == ("rediss://u:p@localhost/3?ssl_ca_certs=%2Fca.pem", "svc")
    assert found.options["username"] == "s"
    assert found.options["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize("url", ["redis+sentinel://one", "redis+sentinel:///svc", "redis+sentinel://one,,two/svc"])
def test_an_incomplete_url_is_refused(url: str) -> None:
    """A service name and at least one address are needed, and no address is empty."""
    with pytest.raises(ValueError, match="Sentinel"):
        read_sentinel_url(url, 1.0)


def test_other_urls_are_left_alone() -> None:
    """Only the two schemes with +sentinel are Sentinel URLs."""
    assert read_sentinel_url("rediss://localhost/0", 1.0) is None


def test_no_password_of_a_url_is_shown() -> None:
    """Log lines show where the queue is: without the master's password or the Sentinels', in any position."""
    url = "redis+sentinel://u:p%40ss@one,two/svc/0?sentinel_password=s3cret&sentinel_username=s"
    shown = without_password(url)
    assert shown == "redis+sentinel://u:***@one,two/svc/0?sentinel_password=***&sentinel_username=s"
    assert without_password("redis://localhost:6379/0") == "redis://localhost:6379/0"
