"""When an endpoint stops because of its address: at once, or after its name was refused for ten minutes."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from services.webhook_sender.connector import tls_context
from shared.errors import SendError, StopChannelError, UnavailableError
from shared.special_addresses import NOTHING_ALLOWED, Allowed
from tests.clocks import HandClock
from tests.integration.webhook_sender.endpoints import (
    DELIVERY,
    Receiver,
    answer,
    endpoint,
    opened,
    receiving,
    resolving,
)
from tests.raw_servers import serving_raw


async def test_name_is_refused_for_ten_minutes_before_its_endpoint_stops() -> None:
    """A name server's fault of a moment must not disable an endpoint; a lasting one needs the operator."""
    clock, kinds = HandClock(), []
    url = "https://app.lan/"
    async with opened(url, clock, allowed=NOTHING_ALLOWED, look_up=resolving("127.0.0.1"), time_scale=0.5) as channel:
        for at in (1000.0, 1100.0, 1299.0, 1300.0, 1301.0, 1600.0, 1601.0):
            clock.now = at
            with pytest.raises(SendError) as caught:
                await channel.send(DELIVERY)
            kinds.append(type(caught.value))
    wait, stop = UnavailableError, StopChannelError
    assert kinds == [wait, wait, wait, stop, wait, wait, stop]


@dataclass
class NamedReceiver:
    """A receiver with a certificate for `app.lan`, which is at 127.0.0.3 until it is moved; `names` were asked for."""

    receiver: Receiver
    tls: ssl.SSLContext
    address: str = "127.0.0.3"
    names: list[str | None] = field(default_factory=list)

    async def look_up(self, _host: str) -> list[str]:
        return [self.address]


@asynccontextmanager
async def named(folder: Path, port: int, *answers: bytes) -> AsyncIterator[NamedReceiver]:
    """Run such a receiver."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("app.lan").configure_cert(context)
    found = NamedReceiver(Receiver(answers), tls_context(str(folder / "ca.pem")))
    context.sni_callback = lambda _socket, name, _context: found.names.append(name)
    async with serving_raw(found.receiver.serve, context, "127.0.0.3", port):
        yield found


THREE = Allowed((ipaddress.ip_network("127.0.0.3/32"),))


async def test_one_answer_begins_the_ten_minutes_again(tmp_path: Path, usual_port: int) -> None:
    """A name that resolves to a special address now and then is never stopped, and never connected to there."""
    clock, url = HandClock(), f"https://app.lan:{usual_port}/"
    kinds: list[type[SendError] | None] = []
    async with (
        named(tmp_path, usual_port, answer("204 No Content", b"", "Connection: close")) as found,
        opened(url, clock, allowed=THREE, tls=found.tls, look_up=found.look_up) as channel,
    ):
        for clock.now, found.address in ((1000.0, "10.0.0.5"), (1500.0, "127.0.0.3"), (1700.0, "10.0.0.5")):
            assert channel._link is not None
            channel._link._connector.clear_dns_cache()
            try:
                await channel.send(DELIVERY)
                kinds.append(None)
            except SendError as error:
                kinds.append(type(error))
    assert kinds == [UnavailableError, None, UnavailableError]
    assert len(found.receiver.heard) == 1


async def test_kept_connection_stays_where_its_name_was_checked(tmp_path: Path, usual_port: int) -> None:
    """A name that moves to a special address meanwhile leads nowhere: neither the connection nor the next one."""
    closing = answer("204 No Content", b"", "Connection: close")
    async with (
        named(tmp_path, usual_port, answer("204 No Content"), closing) as found,
        opened(f"https://app.lan:{usual_port}/", allowed=THREE, tls=found.tls, look_up=found.look_up) as channel,
    ):
        await channel.send(DELIVERY)
        found.address = "10.0.0.5"
        assert channel._link is not None
        channel._link._connector.clear_dns_cache()
        await channel.send(DELIVERY)
        with pytest.raises(UnavailableError, match=r"10\.0\.0\.5 is a private address"):
            await channel.send(DELIVERY)
    assert (len(found.receiver.heard), found.receiver.connections) == (2, 1)


@pytest.mark.parametrize("host", ["app.lan", "APP.lan", "app.lan."])
async def test_certificate_is_asked_for_by_name(host: str, tmp_path: Path, usual_port: int) -> None:
    """By the name as certificates have it, not by the address that it resolves to."""
    async with (
        named(tmp_path, usual_port, answer("204 No Content")) as found,
        opened(f"https://{host}:{usual_port}/", allowed=THREE, tls=found.tls, look_up=found.look_up) as channel,
    ):
        await channel.send(DELIVERY)
    assert found.names == ["app.lan"]


async def test_endpoint_that_moves_to_an_internal_address_is_stopped() -> None:
    """Every new URL is checked, and what was opened for the former one is closed."""
    async with receiving() as receiver, opened(receiver.url) as channel:
        await channel.send(DELIVERY)
        channel.update(endpoint("http://[::1]:8080/"))
        with pytest.raises(StopChannelError):
            channel.capacity(1)
        with pytest.raises(StopChannelError):
            await channel.send(DELIVERY)
        channel.update(endpoint(receiver.url))
        await channel.send(DELIVERY)
    assert (len(receiver.heard), receiver.connections) == (2, 2)
