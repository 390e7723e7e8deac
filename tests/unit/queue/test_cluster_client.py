"""The client of a cluster against nodes that answer as told: what it follows, what it repeats, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import hiredis
import pytest
from redis.exceptions import ClusterDownError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.queue.client import QueueRedis
from shared.queue.connection import connect
from shared.queue.slots import SLOTS, slot_of
from tests.servers import PATIENCE_S, free_port

Answer = Callable[[list[bytes]], bytes | None]
HALF = SLOTS // 2


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


@dataclass
class Node:
    """A node that records the commands it gets, each with its connection; `answer` may answer one, None to hang up."""

    name: str
    port: int = field(default_factory=free_port)
    got: list[tuple[int, list[bytes]]] = field(default_factory=list)
    answer: Answer | None = None
    cluster: Cluster | None = None
    server: asyncio.Server | None = None
    maps: int = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    answer = self._answer(id(writer), command)
                    if answer is None:
                        return
                    writer.write(answer)
        finally:
            writer.close()

    def _answer(self, connection: int, command: list[bytes]) -> bytes | None:
        assert self.cluster is not None
        if command[:2] == [b"CLUSTER", b"SLOTS"]:
            self.maps += 1
            return self.cluster.slots()
        if command[0] == b"PING" and len(command) > 1:  # of a new connection
            return bulk(command[1].decode())
        self.got.append((connection, command))
        if self.answer is not None:
            return self.answer(command)
        return b"+OK\r\n" if command[0] in {b"ASKING", b"SELECT"} else bulk(f"{self.name} {command[-1].decode()}")

    @property
    def commands(self) -> list[list[bytes]]:
        return [command for _, command in self.got]


@dataclass
class Cluster:
    """Two nodes, each with half of the slots."""

    low: Node = field(default_factory=lambda: Node("low"))
    high: Node = field(default_factory=lambda: Node("high"))

    def slots(self) -> bytes:
        def entry(first: int, last: int, node: Node) -> bytes:
            return f"*3\r\n:{first}\r\n:{last}\r\n*2\r\n".encode() + bulk("127.0.0.1") + f":{node.port}\r\n".encode()

        return b"*2\r\n" + entry(0, HALF - 1, self.low) + entry(HALF, SLOTS - 1, self.high)

    def swap(self) -> None:
        """Let each node have the other's slots."""
        self.low, self.high = self.high, self.low


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Cluster, QueueRedis]]:
    cluster = Cluster()
    nodes = [cluster.low, cluster.high]
    for node in nodes:
        node.cluster = cluster
        await node.start()
    client = connect(
        f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}", socket_timeout_s=PATIENCE_S
    )
    try:
        yield cluster, client
    finally:
        await client.aclose()
        for node in nodes:
            await node.stop()


def key_in(low: bool, number: int = 0) -> str:
    """Return a key in the lower or the upper half of the slots."""
    return [key for key in map(str, range(1000)) if (slot_of(key) < HALF) is low][number]


LOW, HIGH = key_in(low=True), key_in(low=False)


async def test_a_command_goes_to_the_node_of_its_slot() -> None:
    """The map is read once; a command without a key goes to either."""
    async with running() as (cluster, client):
        for _ in range(3):
            assert await client.get(LOW) == f"low {LOW}".encode()
            assert await client.get(HIGH) == f"high {HIGH}".encode()
        await client.ping()
        assert cluster.low.maps + cluster.high.maps <= 2  # both are asked at once
        assert await (await client.node_of(HIGH)).get(HIGH) == f"high {HIGH}".encode()
        assert len(await client.every_node()) == 2


async def test_a_command_that_was_moved_is_sent_to_the_new_node_once() -> None:
    """The node that said so has not run it; the map is read again, so the next command goes there at once."""
    async with running() as (cluster, client):
        await client.get(LOW)
        old, new = cluster.low, cluster.high
        old.answer = lambda _: f"-MOVED {slot_of(LOW)} 127.0.0.1:{new.port}\r\n".encode()
        cluster.swap()
        before = len(new.got)
        assert await client.get(LOW) == f"high {LOW}".encode()
        assert len(new.got) == before + 1
        asked = len(old.got)
        await asyncio.sleep(0.12)  # the map is not read more often than that
        assert await client.get(key_in(low=True, number=1)) is not None
        assert len(old.got) == asked


async def test_a_slot_that_is_moving_is_asked_for_on_one_connection() -> None:
    """ASKING counts for the next command of its connection only; the slot stays with its owner."""
    async with running() as (cluster, client):
        cluster.low.answer = lambda _: f"-ASK {slot_of(LOW)} 127.0.0.1:{cluster.high.port}\r\n".encode()
        for _ in range(2):
            assert await client.get(LOW) == f"high {LOW}".encode()
        asked = [(connection, command[0]) for connection, command in cluster.high.got]
        assert [name for _, name in asked] == [b"ASKING", b"GET"] * 2
        assert asked[0][0] == asked[1][0]
        assert len(cluster.low.got) == 2


async def test_a_command_whose_answer_is_lost_is_not_repeated() -> None:
    """Its outcome is unknown, so the caller decides; the next command works."""
    async with running() as (cluster, client):
        cluster.low.answer = lambda _: None
        with pytest.raises(RedisConnectionError):
            await client.get(LOW)
        assert cluster.low.commands == [[b"GET", LOW.encode()]]
        cluster.low.answer = None
        assert await client.get(LOW) == f"low {LOW}".encode()


async def test_a_refusal_is_raised_and_the_map_is_read_again() -> None:
    """A cluster that is down may be whole again in a moment, with other owners."""
    async with running() as (cluster, client):
        await client.get(LOW)
        maps = cluster.low.maps + cluster.high.maps
        cluster.low.answer = lambda _: b"-CLUSTERDOWN The cluster is down\r\n"
        with pytest.raises(ClusterDownError):
            await client.get(LOW)
        cluster.low.answer = None
        cluster.swap()
        await asyncio.sleep(0.12)
        assert await client.get(LOW) == f"high {LOW}".encode()
        assert cluster.low.maps + cluster.high.maps > maps


async def test_client_recovers_after_no_node_has_answered() -> None:
    """It asks the nodes of its URL, too, each time."""
    async with running() as (cluster, client):
        await client.get(LOW)
        for node in (cluster.low, cluster.high):
            node.answer = lambda _: None
            await node.stop()
        for _ in range(3):
            with pytest.raises(RedisConnectionError):
                await client.get(LOW)
        for node in (cluster.low, cluster.high):
            node.answer = None
            await node.start()
        await asyncio.sleep(0.12)
        assert await client.get(LOW) == f"low {LOW}".encode()


async def test_a_pipeline_is_cut_by_slots_and_answered_in_order() -> None:
    """A command that was moved is sent on alone; an error is raised only where it is wanted."""
    keys = [key_in(low=number % 2 == 0, number=number // 2) for number in range(8)]
    async with running() as (cluster, client):
        pipe: Any = client.pipeline(transaction=False)
        for key in keys:
            pipe.get(key)
        pipe.execute_command("PING")
        *answers, _ = await pipe.execute()
        assert [answer.split()[1].decode() for answer in answers] == keys
        assert {command[1].decode() for command in cluster.low.commands if len(command) > 1} == set(keys[::2])
        moved = f"-MOVED {slot_of(keys[0])} 127.0.0.1:{cluster.high.port}\r\n".encode()
        cluster.low.answer = lambda command: moved if command[1] == keys[0].encode() else b"-ERR no\r\n"
        first, second = await pipe.get(keys[0]).get(keys[2]).execute(raise_on_error=False)
        assert first == f"high {keys[0]}".encode()
        assert isinstance(second, ResponseError)
        with pytest.raises(ResponseError, match="no"):
            await pipe.get(keys[2]).execute()
        assert await pipe.execute() == []


@pytest.mark.parametrize("redirection", ["MOVED", "ASK"])
async def test_replicas_of_a_node_that_has_not_answered_confirm_nothing(redirection: str) -> None:
    """WAIT speaks of the node it was sent to; where that sent a command on, no replica has confirmed it."""
    async with running() as (cluster, client):
        words = f"-{redirection} {slot_of(LOW)} 127.0.0.1:{cluster.high.port}\r\n".encode()
        cluster.low.answer = lambda command: b":1\r\n" if command[0] == b"WAIT" else words
        pipe: Any = client.pipeline(transaction=False)
        pipe.get(LOW)
        pipe.execute_command("WAIT", 1, 100)
        assert await pipe.execute() == [f"high {LOW}".encode(), 0]
        cluster.low.answer = lambda command: b":1\r\n" if command[0] == b"WAIT" else bulk("here")
        pipe.get(LOW)
        pipe.execute_command("WAIT", 1, 100)
        await asyncio.sleep(0.12)
        assert await pipe.execute() == [b"here", 1]


async def test_keys_are_grouped_by_their_slots() -> None:
    """So that one command can read the streams of each."""
    async with running() as (_, client):
        assert client.together(["{a}:1", "{b}:1", "{a}:2"]) == [["{a}:1", "{a}:2"], ["{b}:1"]]
