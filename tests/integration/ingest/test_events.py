"""The stream of events: a snapshot, what changes, resuming, the end, and its cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.awake import awake
from tests.integration.ingest.conftest import READ_KEY, StartIngest
from tests.integration.ingest.running import Api, Peers, RunningIngest, person, running
from tests.integration.ingest.test_console import signed_in
from tests.servers import RedisServer, wait_for

EVENTS = "/api/events"
_LOGGED = {"success": True, "blasts": [], "nextCursor": None}


class Stream:
    """A client of the stream, which reads one event at a time."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.last_id = ""

    async def next(self, *names: str) -> tuple[str, Any]:
        """Return the next event, or the next with one of these names; raises EOFError at the end."""
        while True:
            name, data = await asyncio.wait_for(self._read(), 60)
            if not names or name in names:
                return name, data

    async def _read(self) -> tuple[str, Any]:
        name, data = "", None
        while line := (await self.answer.content.readline()).decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "id":
                self.last_id = value
            elif field == "event":
                name = value
            elif field == "data":
                data = json.loads(value)
            elif not field and name:
                return name, data
        raise EOFError


@asynccontextmanager
async def reading(url: str, headers: dict[str, str] | None = None) -> AsyncIterator[Stream]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}{EVENTS}", headers=headers or {}) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(answer)


@pytest.fixture(autouse=True)
def _log_answers(peers: Peers) -> None:
    peers.answers["GET /api/blasts"] = (200, _LOGGED)


async def test_a_stream_begins_with_everything(api: Api) -> None:
    """The state has each channel with its counts and why it waits, and the blasts."""
    await api.blast(person())
    async with reading(api.url) as stream:
        name, state = await stream.next()
        assert name == "state"
        assert (state["redis"], state["log"]) == (True, True)
        email = next(one for one in state["channels"] if one["name"] == "email")
        assert (email["stats"]["waiting"], email["waitingFor"]) == (1, "no_senders")
        assert email["perSecond"].keys() == {"enqueued", "sent", "failed", "retried"}


async def test_changes_are_reported_within_seconds(api: Api) -> None:
    """A pause, new messages and their rate arrive without being asked for."""
    async with reading(api.url) as stream:
        await stream.next("state")
        await api.post("/api/channels/email/pause", {"reason": "lunch"})
        _, now = await stream.next("channels")
        while now["channels"][0]["paused"] != "lunch":
            _, now = await stream.next("channels")
        sent = 0
        # a second that ingest did not look at, as where the machine stood still, has no rate
        while not now["channels"][0]["perSecond"]["enqueued"]:
            await api.blast(*(person(number) for number in range(50)))
            sent += 50
            _, now = await stream.next("channels")
        while now["channels"][0]["stats"]["waiting"] < sent:
            _, now = await stream.next("channels")
        assert now["channels"][0]["stats"]["waiting"] == sent


async def test_a_blast_is_reported_as_it_changes(api: Api, peers: Peers) -> None:
    """The log says which blasts there are, Redis how far they are."""
    blast_id = (await api.blast(person())).body["blastId"]
    view = (await api.get(f"/api/blasts/{blast_id}")).body["blast"]
    peers.answers["GET /api/blasts"] = (200, _LOGGED | {"blasts": [view | {"state": "enqueueing"}]})
    async with reading(api.url) as stream:
        _, state = await stream.next("state")
        # the list is read every other second, if an earlier test's stream is still known
        (blast,) = state["blasts"] or [(await stream.next("blast"))[1]]
        assert (blast["blastId"], blast["waitingFor"]) == (blast_id, "no_senders")
        await api.post(f"/api/blasts/{blast_id}/pause", {"reason": "wait"})
        _, changed = await stream.next("blast")
        while changed["state"] != "paused":
            _, changed = await stream.next("blast")
        assert changed["waitingFor"] == "paused: wait"


async def test_a_stream_continues_after_a_disconnect(api: Api) -> None:
    """With the last id nothing is repeated and nothing missing; with an unknown one the state comes again."""
    async with reading(api.url) as stream:
        await stream.next("state")
        last = stream.last_id
        await api.post("/api/channels/email/pause", {"reason": "one"})
        await stream.next("channels")
        async with reading(api.url, {"Last-Event-ID": last}) as again:
            name, _ = await again.next()
            assert name == "channels"
            assert again.last_id == f"{last.split('-')[0]}-{int(last.split('-')[1]) + 1}"
        async with reading(api.url, {"Last-Event-ID": "other-5"}) as other:
            assert (await other.next())[0] == "state"


async def test_the_stream_says_that_redis_is_away(tmp_path: Path) -> None:
    """It stays open, reports it, and reports when Redis is back."""
    server = RedisServer("valkey")
    server.start()
    try:
        with running(server.url, tmp_path) as ingest:
            async with reading(ingest.url) as stream:
                assert (await stream.next("state"))[1]["redis"] is True
                server.stop()
                while (await stream.next("channels"))[1]["redis"]:
                    pass
                server.start()
                while not (await stream.next("channels"))[1]["redis"]:
                    pass
    finally:
        server.destroy()


async def test_a_stream_ends_when_the_service_stops(valkey_url: str, tmp_path: Path) -> None:
    """Stopping waits for no reader."""
    async with aiohttp.ClientSession() as http:
        with running(valkey_url, tmp_path) as ingest:
            answer = await http.get(f"{ingest.url}{EVENTS}")
            stream = Stream(answer)
            await stream.next("state")
            async with awake() as spent:
                stopping = asyncio.create_task(asyncio.to_thread(ingest.stop))
                with pytest.raises(EOFError):
                    await stream.next("no such event")
                await stopping
            assert spent.seconds < 4


async def test_a_stream_needs_a_key(redis: Redis, start_ingest: StartIngest) -> None:
    """A session's cookie opens it, no key opens nothing, and a HEAD does not wait."""
    assert await redis.ping()
    url = start_ingest("console").url
    async with aiohttp.ClientSession() as http:
        api = Api(http, url)
        assert (await api.get(EVENTS)).status == 401
        headers = await signed_in(api, READ_KEY)
        async with reading(url, headers) as stream:
            await stream.next("state")
        assert (await api.call("HEAD", EVENTS, headers=headers)).status == 200


async def test_a_stream_is_counted_but_not_logged(api: Api) -> None:
    """A request that lasts for hours would spoil the response times of the log."""

    async def open_streams(count: int) -> bool:
        return f"kurir_event_streams {count}.0" in (await api.get("/metrics")).text

    async with reading(api.url) as stream:
        await stream.next("state")
        # those of other tests end when they are written to
        await wait_for(lambda: open_streams(1))

    async def counted() -> bool:
        return 'route="/api/events",status="200"' in (await api.get("/metrics")).text

    await api.post("/api/channels/email/pause")
    await wait_for(counted)
    await wait_for(lambda: open_streams(0))


async def test_a_client_that_does_not_read_costs_no_memory(ingest: RunningIngest, api: Api) -> None:
    """It has no queue: the feed keeps the same few events for all, and another client is served as usual."""
    _, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
    writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await writer.drain()
    async with reading(api.url) as stream:
        await stream.next("state")
        for number in range(3):
            await api.blast(person(number))
            _, now = await stream.next("channels")
            while now["channels"][0]["stats"]["waiting"] <= number:
                _, now = await stream.next("channels")
    writer.transport.abort()


@pytest.mark.cost
async def test_streams_cost_little(ingest: RunningIngest, api: Api, peers: Peers) -> None:
    """With 20 unfinished blasts and 10 streams, ingest uses less than 5 % of a core."""
    ids = [(await api.blast(person(number))).body["blastId"] for number in range(20)]
    views = [(await api.get(f"/api/blasts/{one}")).body["blast"] for one in ids]
    peers.answers["GET /api/blasts"] = (200, _LOGGED | {"blasts": views})
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(reading(api.url)) for _ in range(10)]
        await asyncio.gather(*(stream.next("state") for stream in streams))
        await streams[0].next("channels")
        before = await ingest.thread_time()
        for _ in range(8):
            await asyncio.gather(*(stream.next("channels") for stream in streams))
        spent_s = await ingest.thread_time() - before
    assert spent_s / 8 < 0.05
