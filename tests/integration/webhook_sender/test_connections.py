"""The connections to one endpoint: how many, when a delivery starts on one, and what a new URL changes."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import DeferredError
from shared.sending.breaker import BreakerPolicy
from shared.sending.provider import Capacity, NotStartedError
from tests.integration.webhook_sender.endpoints import (
    CONNECTION,
    DELIVERY,
    NO_CONTENT,
    answer,
    endpoint,
    opened,
    read_request,
    receiving,
)
from tests.raw_servers import serving_raw
from tests.servers import free_port, wait_for


async def test_connections_to_one_endpoint_are_bounded() -> None:
    """Further deliveries wait for one, however long: that is no failure to connect."""
    running = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            while True:
                await read_request(reader)
                await asyncio.sleep(0.15)
                writer.write(NO_CONTENT)
        finally:
            running -= 1

    async with serving_raw(serve) as url, opened(url, connections=3, connect_s=0.1) as channel:
        assert channel.capacity(20) == Capacity(3, connections=3)
        sending = [asyncio.create_task(channel.send(DELIVERY)) for _ in range(12)]
        await wait_for(lambda: channel.capacity(20).starts == 0, what="all connections in use")
        await asyncio.gather(*sending)
        assert channel.capacity(20).starts == 3
    assert most == 3


async def test_start_is_asked_for_with_a_connection_open() -> None:
    """Nothing of the delivery has been sent then, and a refused start leaves the connection to the next."""
    async with receiving() as receiver, opened(receiver.url) as channel:

        async def refuse() -> None:
            await wait_for(lambda: receiver.connections == 1, what="the connection")
            raise NotStartedError("not now")

        with pytest.raises(NotStartedError):
            await channel.send(DELIVERY, refuse)
        assert receiver.heard == []
        await channel.send(DELIVERY)
    assert (len(receiver.heard), receiver.connections) == (1, 1)


async def test_new_url_starts_afresh_while_a_delivery_to_the_former_ends() -> None:
    """Its breaker is closed, and what was under way is neither cut off nor sent twice."""
    release = asyncio.Event()
    begun = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        begun.set()
        await release.wait()
        writer.write(NO_CONTENT)
        await reader.read()

    policy = BreakerPolicy(failures=1, open_s=60.0, probe_every_s=60.0)
    async with serving_raw(serve) as former, receiving() as receiver, opened(former, breaker=policy) as channel:
        sending = asyncio.create_task(channel.send(DELIVERY))
        await begun.wait()
        channel.update(endpoint(receiver.url))
        await channel.send(DELIVERY)
        release.set()
        assert (await sending).response == "204 No Content"
        await wait_for(lambda: not channel._retiring, what="the former session to be closed")


async def test_status_connects_and_sends_nothing() -> None:
    """It says whether the endpoint can be reached, and why not, without its path."""
    async with receiving() as receiver, opened(f"{receiver.url}/secret-path?x=y") as channel:
        status = await channel.status()
        assert (status.reachable, status.authenticated) == (True, True)
        assert "secret-path" not in str(status)
        assert receiver.heard == []
    async with opened(f"http://127.0.0.1:{free_port()}/secret-path") as channel:
        status = await channel.status()
        assert not status.reachable
        assert "cannot connect" in str(status.detail["error"])
    async with opened("http://10.0.0.5/", allowed=CONNECTION.allowed) as channel:
        assert "private" in str((await channel.status()).detail["error"])


async def test_new_url_is_tried_although_the_former_failed() -> None:
    """Neither its breaker nor the wait that it asked for concerns the new one."""
    policy = BreakerPolicy(failures=1, open_s=60.0, probe_every_s=60.0)
    async with (
        receiving(answer("503 Unavailable", b"", "Retry-After: 60")) as former,
        receiving() as receiver,
        opened(former.url, breaker=policy) as channel,
    ):
        with pytest.raises(DeferredError):
            await channel.send(DELIVERY)
        assert not channel.available()
        channel.update(endpoint(receiver.url))
        assert channel.available()
        assert (await channel.send(DELIVERY)).response == "204 No Content"


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n{}",
        b"HTTP/1.0 204 No Content\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, thanks",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nok",
    ],
)
async def test_bytes_behind_an_acceptance_change_nothing(raw: bytes, interim: bytes) -> None:
    """A body where HTTP allows none, or a longer one than its length says; the next delivery has another connection."""
    async with receiving(interim + raw, NO_CONTENT) as receiver, opened(receiver.url) as channel:
        await channel.send(DELIVERY)
        await channel.send(DELIVERY)
    assert (len(receiver.heard), receiver.connections) == (2, 2)
