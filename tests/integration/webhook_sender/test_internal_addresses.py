"""No connection is made to a special address, however a URL names it: listeners there hear nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from yarl import URL

from services.webhook_sender.addresses import Guard, LookUps, RefusedAddressError
from services.webhook_sender.connector import Link
from shared.errors import SendError, StopChannelError, TransientError, UnavailableError
from shared.http_sending.hand_over import HandOver
from shared.special_addresses import NOTHING_ALLOWED, Allowed
from tests.integration.webhook_sender.endpoints import (
    BODY,
    CONNECTION,
    DELIVERY,
    NO_CONTENT,
    answer,
    failure_at,
    has_ipv6,
    opened,
    receiving,
    resolving,
)
from tests.raw_servers import serving_raw
from tests.servers import free_port, wait_for

# {port} is that of listeners on 127.0.0.1 and ::1
URLS = (
    # IPv4, as written and as inet_aton reads it
    "http://127.0.0.1:{port}/",
    "https://127.0.0.1:{port}/",
    "http://127.0.0.2:{port}/",
    "http://127.255.255.254:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0x7f.1:{port}/",
    "http://017700000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0177.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0x0:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "http://127。0。0。1:{port}/",
    "http://127%2e0.0.1:{port}/",
    # other networks of IPv4
    "http://10.0.0.5:{port}/",
    "http://172.16.0.1:{port}/",
    "http://192.168.1.1:{port}/",
    "http://192.168.257:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0251.0376.0251.0376/",
    "http://100.64.0.1:{port}/",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/metadata",
    "http://192.0.0.192/",
    "http://198.18.0.1:{port}/",
    "http://224.0.0.1:{port}/",
    "http://239.255.255.250:1900/",
    "http://240.0.0.1:{port}/",
    "http://255.255.255.255:{port}/",
    "http://192.0.2.1:{port}/",
    # IPv6
    "http://[::1]:{port}/",
    "https://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[fe80::1]:{port}/",
    "http://[fec0::1]:{port}/",
    "http://[fc00::1]:{port}/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[ff02::1]:{port}/",
    "http://[2001:db8::1]:{port}/",
    "http://[100::1]:{port}/",
    # IPv4 within IPv6
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[0:0:0:0:0:ffff:7f00:0001]:{port}/",
    "http://[::ffff:10.0.0.5]:{port}/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]:{port}/",
    "http://[::ffff:0:127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b::10.0.0.5]:{port}/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::1]:{port}/",
    "http://[2002:a00:5::1]:{port}/",
    "http://[2001:0:7f00:1::1]:{port}/",
    "http://[2606:4700::5efe:127.0.0.1]:{port}/",
    "http://[2606:4700::200:5efe:a00:5]:{port}/",
    "http://[::ffff:127.0.0.1%25lo]:{port}/",
    "http://[64:ff9b::7f00:1%25lo]:{port}/",
    # behind a user name
    "http://user:password@127.0.0.1:{port}/",
    "http://example.com@127.0.0.1:{port}/",
    "http://example.com@[::1]:{port}/",
    # names of this machine, looked up for real where they get that far
    "http://localhost:{port}/",
    "http://LOCALHOST.:{port}/",
    "http://app.localhost:{port}/",
)


class Listeners:
    """What servers on this machine heard: connections, whatever was sent on them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += 1
        if await reader.readexactly(4) == b"POST":  # not a TLS handshake
            await reader.readuntil(BODY)
            writer.write(NO_CONTENT)
        await writer.drain()


@asynccontextmanager
async def listening(*hosts: str, port: int = 0) -> AsyncIterator[Listeners]:
    """Listen on one port of several addresses of this machine; on ::1 only where the machine has IPv6."""
    listeners = Listeners(port or free_port())
    async with AsyncExitStack() as stack:
        for host in hosts:
            if host == "::1" and not has_ipv6():
                continue
            await stack.enter_async_context(serving_raw(listeners.serve, host=host, port=listeners.port))
        yield listeners


_attempts: ContextVar[list[Any] | None] = ContextVar("attempts", default=None)


def _hear(event: str, args: tuple[Any, ...]) -> None:
    attempts = _attempts.get() if event == "socket.connect" else None
    if attempts is not None:
        attempts.append(args[1])


sys.addaudithook(_hear)


@pytest.fixture
async def attempts() -> list[Any]:
    """Record the address of every connection that the test attempts: most special ones have no listener here.

    What belongs to the test is what runs in its context, its tasks included; other threads of this process connect too.
    """
    attempts: list[Any] = []
    _attempts.set(attempts)
    return attempts


@pytest.mark.parametrize("url", URLS)
async def test_nothing_is_connected_to(url: str, attempts: list[Any]) -> None:
    """By the channel, which stops; nor by its session, were a URL to pass every check of its form."""
    async with listening("127.0.0.1", "::1") as listeners:
        where = url.format(port=listeners.port)
        error = await failure_at(where, allowed=NOTHING_ALLOWED)
        assert (type(error), error.code) == (StopChannelError, "address")
        link = Link(replace(CONNECTION, allowed=NOTHING_ALLOWED))
        with pytest.raises((aiohttp.ClientError, ValueError)):
            await link.session.post(URL(where), trace_request_ctx=HandOver(1.0))
        await link.close()
    assert (listeners.heard, attempts) == (0, [])


def test_the_table_is_long_enough() -> None:
    """Each form once."""
    assert len(set(URLS)) == len(URLS) >= 60


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.5"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::127.0.0.1"],
        ["fe80::1%lo"],
        ["1.1.1.1", "127.0.0.1"],
        ["127.0.0.1", "1.1.1.1"],
        ["2606:4700::1111", "1.1.1.1", "169.254.169.254"],
    ],
)
async def test_name_of_a_special_address_is_not_connected_to(
    addresses: list[str], attempts: list[Any], usual_port: int
) -> None:
    """Nor is a name of which one address is public: the whole answer is refused, and counts for the breaker."""
    async with listening("127.0.0.1", "::1", port=usual_port) as listeners:
        url = f"https://app.example.com:{usual_port}/"
        error = await failure_at(url, allowed=NOTHING_ALLOWED, look_up=resolving(*addresses))
    assert (type(error), error.code) == (UnavailableError, "address")
    assert "app.example.com resolves to a special address" in error.message
    assert "KURIR_WEBHOOK_ALLOW" in error.message
    assert (listeners.heard, attempts) == (0, [])


async def test_name_that_changes_its_answer_between_check_and_connect_is_not_connected_to(
    attempts: list[Any], usual_port: int
) -> None:
    """A first look-up finds an open address, the one for the connection another: that one counts."""
    answers = iter((["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]))

    async def look_up(_host: str) -> list[str]:
        return next(answers)

    allowed = Allowed((ipaddress.ip_network("127.0.0.2/32"),))
    async with listening("127.0.0.1", "127.0.0.2", port=usual_port) as listeners:
        url = f"https://app.example.com:{usual_port}/"
        async with opened(url, allowed=allowed, look_up=look_up) as channel:
            await channel.status()
            assert [address[0] for address in attempts] == ["127.0.0.2"]
            attempts.clear()
            with pytest.raises(UnavailableError, match=r"127\.0\.0\.1 is a loopback address"):
                await channel.send(DELIVERY)
    assert attempts == []
    assert listeners.heard == 1


async def test_address_that_passed_the_resolver_is_checked_again_before_connecting() -> None:
    """Whatever is between the two, such as a cache: the socket is made for the address itself."""
    guard = Guard(NOTHING_ALLOWED, resolving("1.1.1.1"))
    assert [one["host"] for one in await guard.resolve("app.example.com", 443)] == ["1.1.1.1"]
    with pytest.raises(RefusedAddressError, match=r"127\.0\.0\.1 is a loopback address"):
        guard.make_socket((2, 1, 6, "", ("127.0.0.1", 443)))
    guard.make_socket((2, 1, 6, "", ("1.1.1.1", 443))).close()


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent", "300 M"]
)
async def test_redirect_to_an_internal_address_is_not_followed(status: str) -> None:
    """It is the failure of an attempt, and its words say what to do; the rest of the new URL is not shown."""
    async with listening("127.0.0.1") as listeners:
        to = f"http://127.0.0.1:{listeners.port}/hidden-token?a=b"
        async with receiving(answer(status, b"", f"Location: {to}")) as receiver:
            error = await failure_at(receiver.url)
    assert (type(error), error.code) == (TransientError, status[:3])
    assert "redirects are not followed" in error.message
    assert f"http://127.0.0.1:{listeners.port}" in error.message
    assert "hidden-token" not in error.message
    assert listeners.heard == 0


async def test_alternative_services_and_refreshes_lead_nowhere() -> None:
    """Other headers that name a place are not followed either."""
    async with listening("127.0.0.1") as listeners:
        where = f"127.0.0.1:{listeners.port}"
        headers = (f'Alt-Svc: h2="{where}"', f"Refresh: 0; url=http://{where}/", f"Content-Location: http://{where}/")
        async with receiving(answer("200 OK", b"", *headers)) as receiver, opened(receiver.url) as channel:
            await channel.send(DELIVERY)
            await channel.send(DELIVERY)
    assert listeners.heard == 0


async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look up the name itself, past every check."""
    async with listening("127.0.0.1") as listeners, receiving() as receiver:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{listeners.port}")
        async with opened(receiver.url) as channel:
            await channel.send(DELIVERY)
    assert (len(receiver.heard), listeners.heard) == (1, 0)


# what opens it, and what is open then
OPENED = (
    ("127.0.0.1/32", "", "http://127.0.0.1:{port}/"),
    ("127.0.0.0/8", "", "http://127.0.0.1:{port}/"),
    ("127.0.0.1/32", "", "http://[::ffff:127.0.0.1]:{port}/"),
    ("::1/128", "", "http://[::1]:{port}/"),
    ("", "localhost", "http://localhost:{port}/"),
    ("", "app.lan", "http://app.lan:{port}/"),
)
STILL_CLOSED = (
    ("127.0.0.1/32", "", "http://[::1]:{port}/"),
    ("::1/128", "", "http://127.0.0.1:{port}/"),
    ("10.0.0.0/8", "", "http://127.0.0.1:{port}/"),
    ("", "localhost", "http://127.0.0.1:{port}/"),
    ("", "app.lan", "http://localhost:{port}/"),
    ("", "app.lan", "http://other.lan:{port}/"),
    ("127.0.0.1/32", "", "http://127.1:{port}/"),
)


def _allowed(network: str, host: str) -> Allowed:
    networks = (ipaddress.ip_network(network),) if network else ()
    return Allowed(networks, frozenset((host,) if host else ()))


async def _look_up(host: str) -> list[str]:
    return ["127.0.0.1"] if host.endswith(".lan") else await LookUps()(host)


@pytest.mark.parametrize(("network", "host", "url"), OPENED)
async def test_operator_opens_a_network_or_a_name(network: str, host: str, url: str) -> None:
    """The same listeners hear the delivery then."""
    if "[::1]" in url and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with listening("127.0.0.1", "::1") as listeners:
        to = url.format(port=listeners.port)
        async with opened(to, allowed=_allowed(network, host), look_up=_look_up) as channel:
            assert (await channel.send(DELIVERY)).response == "204 No Content"
    assert listeners.heard == 1


@pytest.mark.parametrize(("network", "host", "url"), STILL_CLOSED)
async def test_operator_opens_nothing_else(network: str, host: str, url: str, attempts: list[Any]) -> None:
    """A name does not open the address that it has, nor an address its names or its neighbours."""
    async with listening("127.0.0.1", "::1") as listeners:
        to = url.format(port=listeners.port)
        error = await failure_at(to, allowed=_allowed(network, host), look_up=_look_up)
    assert isinstance(error, SendError)
    assert error.code == "address"
    assert (listeners.heard, attempts) == (0, [])


async def test_name_of_an_opened_network_is_connected_to(usual_port: int) -> None:
    """The network opens what is in it, by whatever name; http and other ports need the name itself."""
    allowed = _allowed("127.0.0.1/32", "")
    async with listening("127.0.0.1", port=usual_port) as listeners:
        await failure_at(f"https://app.lan:{usual_port}/", allowed=allowed, look_up=_look_up)
        await wait_for(lambda: listeners.heard == 1, what="a connection, which has no TLS")
        error = await failure_at(f"http://app.lan:{usual_port}/", allowed=allowed, look_up=_look_up)
    assert type(error) is StopChannelError
    assert "https://" in error.message
