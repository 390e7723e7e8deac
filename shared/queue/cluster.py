"""Redis Cluster and Valkey Cluster: a client that sends each command to the node that has the slot of its keys.

It repeats nothing whose outcome is unknown. A node that answers MOVED or ASK has not run the command, so it is sent on.
After any other failure the map of slots is read again before the next command, from the first node that answers: those
known, and those of the URL, whose names are resolved again. So the client recovers when all nodes have been replaced.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.lifecycle import end_tasks
from shared.queue.client import QueueRedis, adapt_connections, open_pool, queue_redis
from shared.queue.slots import SLOTS, slot_of, slot_of_command
from shared.settings import split_redis_url

_SUFFIX = "+cluster"
_MOST_REDIRECTIONS = 5
_MAP_WITHIN_S = 2.0
_READ_EVERY_S = 0.1
# after these the map may be wrong; the first three are refusals, the others leave the outcome unknown
_DOUBTS = (ClusterDownError, ReadOnlyError, TryAgainError, RedisConnectionError, RedisTimeoutError, OSError)

Address = tuple[str, int]


def is_cluster_url(url: str) -> bool:
    """Return whether a URL names the nodes of a cluster."""
    return _SUFFIX in url.partition("://")[0]


def open_cluster(url: str, max_connections: int, socket_timeout_s: float) -> QueueRedis:
    """Return a client of the cluster at `redis+cluster://[user:password@]host[:port],…`; raises ValueError.

    With `rediss+cluster` the nodes speak TLS.
    """
    nodes = _Nodes(url, max_connections, socket_timeout_s)
    client = queue_redis(nodes.pool_of(nodes.starts[0]), ClusterRedis)
    assert isinstance(client, ClusterRedis)  # noqa: S101 -- narrows the type
    client.nodes = nodes
    return client


class _Nodes:
    """The nodes of a cluster, and which of them has which slot."""

    def __init__(self, url: str, max_connections: int, socket_timeout_s: float) -> None:
        parts = split_redis_url(url)
        self._scheme = parts.scheme.removesuffix(_SUFFIX)
        self._credentials, self._at, hosts = parts.netloc.rpartition("@")
        self._query = parts.query
        self._max_connections, self._timeout_s = max_connections, socket_timeout_s
        self.starts = [_address(host) for host in hosts.split(",")]
        if parts.path.strip("/") not in {"", "0"}:
            raise ValueError("a cluster has only database 0")
        self._clients: dict[Address, Redis] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._masters: list[Address] = []
        self._doubtful = True
        self._read_at = -_READ_EVERY_S
        self._reading: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def pool_of(self, address: Address) -> BlockingConnectionPool:
        """Make a pool of connections to a node; raises ValueError for a bad option."""
        host, port = address
        shown = f"[{host}]" if ":" in host else host
        url = f"{self._scheme}://{self._credentials}{self._at}{shown}:{port}/0?{self._query}"
        pool = open_pool(url, self._max_connections, self._timeout_s)
        adapt_connections(pool)
        return pool

    async def of(self, slot: int) -> Redis:
        """Return the node that has a slot; raises the driver's ConnectionError if none is known."""
        await self._read_if_doubtful()
        owner = self._owners[slot]
        if owner is None:
            self.doubt()
            raise RedisConnectionError(f"no node of the cluster has slot {slot}")
        return self.client(owner)

    async def any(self) -> Redis:
        """Return one of the nodes that have slots."""
        await self._read_if_doubtful()
        return self.client(random.choice(self._masters))

    async def every(self) -> list[Redis]:
        """Return the nodes that have slots."""
        await self._read_if_doubtful()
        return [self.client(address) for address in self._masters]

    def client(self, address: Address) -> Redis:
        """Return the client of a node."""
        if address not in self._clients:
            self._clients[address] = queue_redis(self.pool_of(address))
        return self._clients[address]

    def doubt(self) -> None:
        """Read the map again before the next command."""
        self._doubtful = True

    def note_move(self, moved: MovedError) -> None:
        """Note the new owner of a slot; others may have moved with it."""
        self._owners[moved.slot_id] = self._named(moved)
        self._doubtful = True

    def _named(self, moved: AskError) -> Address:
        # a node that does not know its own name leaves it out: then it is the one that was asked last
        return (moved.host or self.starts[0][0], moved.port)

    def named(self, asked: AskError) -> Redis:
        """Return the node that an ASK names."""
        return self.client(self._named(asked))

    async def _read_if_doubtful(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._doubtful or (self._masters and now - self._read_at < _READ_EVERY_S):
            return
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._has_read)
        # shielded: others wait for it
        await asyncio.shield(self._reading)

    def _has_read(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # raised to those who wait, if any

    async def _read(self) -> None:
        """Read the map from the first node that answers; raises the driver's ConnectionError if none does."""
        self._doubtful, self._read_at = False, asyncio.get_running_loop().time()
        asked = {asyncio.create_task(self._ask(one)) for one in dict.fromkeys((*self._masters, *self.starts))}
        pending, failures = set(asked), []
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        self._take(task.result())
                        return
                    failures.append(str(error) or type(error).__name__)
        finally:
            await end_tasks(list(asked))
            for task in asked:
                if not task.cancelled():
                    task.exception()  # read the errors of those that failed after the answer, or asyncio would log them
        self._doubtful = True
        raise RedisConnectionError(f"no node of the cluster answers: {'; '.join(failures)}")

    async def _ask(self, address: Address) -> list[tuple[int, int, Address]]:
        """Ask one node for the slots that have an owner, by their first and last."""
        client: Any = self.client(address)
        async with asyncio.timeout(_MAP_WITHIN_S):
            rows: Any = await client.execute_command("CLUSTER", "SLOTS")
        if not rows:
            raise RedisConnectionError("its node has no map of slots yet")
        return [(first, last, (_text(owner[0]) or address[0], int(owner[1]))) for first, last, owner, *_ in rows]

    def _take(self, ranges: Sequence[tuple[int, int, Address]]) -> None:
        owners: list[Address | None] = [None] * SLOTS
        for first, last, owner in ranges:
            owners[first : last + 1] = [owner] * (last + 1 - first)
        self._owners, self._masters = owners, list(dict.fromkeys(owner for *_, owner in ranges))
        for address in set(self._clients) - {*self._masters, *self.starts}:
            # it no longer has slots: calls that wait for it fail now
            task = asyncio.create_task(self._clients.pop(address).aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close all connections."""
        # a list: a call that fails by this may make its caller ask for another client
        for client in list(self._clients.values()):
            await client.aclose()
        await asyncio.gather(*self._closing, return_exceptions=True)


class ClusterRedis(QueueRedis):
    """The servers of a cluster, as one."""

    clustered = True
    nodes: _Nodes

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command to the node of its slot, or to any node if it has no key.

        Raises the driver's errors, and CrossSlotError.
        """
        slot = slot_of_command(args)
        for _ in range(_MOST_REDIRECTIONS):
            try:
                client: Any = await (self.nodes.any() if slot is None else self.nodes.of(slot))
                return await client.execute_command(*args, **options)
            except MovedError as moved:
                self.nodes.note_move(moved)
            except AskError as asked:
                return await self._ask(asked, args, options)
            except _DOUBTS:
                self.nodes.doubt()
                raise
        raise RedisConnectionError("the slots of the cluster keep moving")

    async def _ask(self, asked: AskError, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """Send a command to the node that its slot is moving to, for this once."""
        pipe: Any = self.nodes.named(asked).pipeline(transaction=False)
        try:
            pipe.execute_command("ASKING")
            pipe.execute_command(*args, **options)
            return (await pipe.execute())[1]
        except _DOUBTS:
            self.nodes.doubt()
            raise

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline that sends the commands of each slot together; there are no transactions."""
        if transaction:
            raise ValueError("a pipeline of a cluster is no transaction")
        return _ClusterPipeline(self, shard_hint)

    async def node_of(self, key: str) -> Redis:
        """Return the node that has a key now."""
        return await self.nodes.of(slot_of(key))

    async def every_node(self) -> list[Redis]:
        """Return the nodes that have slots."""
        return await self.nodes.every()

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        """Return the keys by slot."""
        found: dict[int, list[str]] = {}
        for key in keys:
            found.setdefault(slot_of(key), []).append(key)
        return list(found.values())

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections to all nodes."""
        await self.nodes.aclose()
        await super().aclose(close_connection_pool)


class _ClusterPipeline(Pipeline):
    """Commands that are sent slot by slot, all at once; commands without a key go with those of the first slot."""

    def __init__(self, cluster: ClusterRedis, shard_hint: str | None) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, False, shard_hint)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands; return their answers in order. Raises the driver's errors."""
        stack, self.command_stack = self.command_stack, []
        by_slot: dict[int | None, list[int]] = {}
        for place, (args, _) in enumerate(stack):
            by_slot.setdefault(slot_of_command(args), []).append(place)
        keyless = by_slot.pop(None, [])
        by_slot.setdefault(next(iter(by_slot), None), []).extend(keyless)
        groups = [(slot, places) for slot, places in by_slot.items() if places]
        sent = (self._send(slot, [stack[place] for place in places]) for slot, places in groups)
        answers: dict[int, Any] = {}
        for (_, places), some in zip(groups, await asyncio.gather(*sent), strict=True):
            answers.update(zip(places, some, strict=True))
        ordered = [answers[place] for place in range(len(stack))]
        if raise_on_error:
            _raise_first(ordered)
        return ordered

    async def _send(self, slot: int | None, commands: Sequence[tuple[Any, Any]]) -> list[Any]:
        nodes = self._cluster.nodes
        try:
            pipe: Any = (await (nodes.any() if slot is None else nodes.of(slot))).pipeline(transaction=False)
            for args, options in commands:
                pipe.execute_command(*args, **options)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        except _DOUBTS:
            nodes.doubt()
            raise
        if any(isinstance(answer, _DOUBTS) for answer in answers):
            nodes.doubt()
        redirected = [place for place, answer in enumerate(answers) if isinstance(answer, AskError)]
        for place, (args, options) in enumerate(commands):
            if place in redirected:  # or MovedError: it was not run
                answers[place] = await self._cluster.execute_command(*args, **options)
            elif redirected and args[0] == "WAIT":
                answers[place] = 0  # the replicas of another node than the one that has answered now
        return answers


def _raise_first(answers: Sequence[Any]) -> None:
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise answer


def _address(text: str) -> Address:
    parts = urlsplit(f"//{text.strip()}")
    if not parts.hostname:
        raise ValueError("the address of a node is empty")
    return parts.hostname, parts.port or 6379


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
