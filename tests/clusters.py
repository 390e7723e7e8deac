"""A cluster for tests: three masters and three replicas as real processes on loopback."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from redis.exceptions import ClusterDownError, ResponseError

from shared.queue.connection import connect
from tests.servers import PATIENCE_S, Kind, RedisServer, read_info, wait_for

SLOTS = 16384
_JOINED_WITHIN_S = 120.0
_ANSWER_TIMEOUT_S = 30.0
_GIVES_UP_S = 6.0
_MEET_EVERY_S = 3.0
NODE_TIMEOUT_MS = 2000
# For clusters whose nodes stay: on a busy machine a node may not get to run for seconds, and the others must not mind.
PATIENT = ("--cluster-node-timeout", "60000")
# replicas log in as a user of their own, so that a test can cut their link
_USER = ("replication", "on", ">of-a-test", "+psync", "+replconf", "+ping")
# Replicas take over only when a test says so (`promote`), however long that takes: a test must read what a replica has
# before it is promoted, and a disk that stands still must not cause a failover that no test knows of.
NO_FAILOVER = ("--cluster-replica-no-failover", "yes", "--cluster-replica-validity-factor", "0")


class Cluster:
    """Its nodes: the first three have the slots at first, the others replicate them."""

    def __init__(self, kind: Kind = "valkey", masters: int = 3, replicas: int = 3, options: Sequence[str] = ()) -> None:
        own = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
        own += ["--cluster-require-full-coverage", "no"]  # as docs/operations.md advises
        own += ["--repl-diskless-sync-delay", "0"]
        own += ["--user", *_USER, "--masteruser", _USER[0], "--masterauth", "of-a-test"]
        own += options
        self.nodes = [RedisServer(kind, own) for _ in range(masters + replicas)]
        self.masters, self.replicas = self.nodes[:masters], self.nodes[masters:]
        self._meet_after = 0.0

    @property
    def url(self) -> str:
        """The URL for clients, with two of its nodes."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port},127.0.0.1:{self.nodes[-1].port}"

    def start(self) -> None:
        """Start all nodes, give each master its slots and its replica, and wait until all agree."""
        for node in self.nodes:
            node.start()
        share = SLOTS // len(self.masters) + 1
        for number, node in enumerate(self.masters):
            last = min((number + 1) * share, SLOTS) - 1
            assert node.command("CLUSTER", "ADDSLOTSRANGE", str(number * share), str(last)) == b"+OK"
            assert node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1)) == b"+OK"
        self._wait(self._all_have_met, "every node to know all")
        for number, node in enumerate(self.replicas):
            command = ("CLUSTER", "REPLICATE", id_of(self.masters[number % len(self.masters)]))
            # refused while the node knows its master only by its address
            self._wait(partial(_succeeds, node, *command), "a node to replicate")
        self._wait(self.is_whole, "the cluster to be whole")

    def is_whole(self) -> bool:
        """Return whether every node says that all slots are served, and every replica has its master's data."""
        infos = [info_of(node) for node in self.nodes]
        synced = sum(self._is_synced(node) for node in self.nodes)
        served = all(info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(SLOTS) for info in infos)
        return served and synced == len(self.replicas)

    def _all_have_met(self) -> bool:
        """Return whether every node knows the names of all; if not, let the first one meet those that it does not know.

        A node gives up a meeting that takes longer than the node time-out, and does not try it again by itself. Until
        it is over, the node counts the other one among those that it knows, under a name that means nothing.
        """
        names = {id_of(node): node for node in self.nodes}
        listed = [text_of(node.port, "CLUSTER NODES") for node in self.nodes]
        if time.monotonic() > self._meet_after:
            self._meet_after = time.monotonic() + _MEET_EVERY_S
            for node in [node for name, node in names.items() if name not in listed[0]]:
                assert self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", str(node.port)) == b"+OK"
        return all(name in text for text in listed for name in names)

    @staticmethod
    def _is_synced(node: RedisServer) -> bool:
        return b"slave" in role_of(node) and "master_link_status:up" in text_of(node.port, "INFO replication")

    def restore(self) -> None:
        """Start the nodes that do not run; return once all slots are served and replicated."""
        for node in self.nodes:
            if not node.runs():
                node.start()
            assert node.command("ACL", "SETUSER", *_USER) == b"+OK"
        self._wait(self.is_whole, "the cluster to be whole again")

    def owner_of(self, slot: int) -> RedisServer:
        """Return the node that has a slot, as the first node that runs says."""
        for fields in self._table():
            if "master" in fields[2] and any(_holds(one, slot) for one in fields[8:]):
                return self._at(fields[1])
        raise AssertionError(f"no node has slot {slot}")

    def replica_of(self, master: RedisServer) -> RedisServer:
        """Return the replica of a node."""
        name = id_of(master)
        return next(self._at(fields[1]) for fields in self._table() if fields[3] == name)

    def _table(self) -> list[list[str]]:
        asked = next(node for node in self.nodes if node.runs())
        return [line.split() for line in text_of(asked.port, "CLUSTER NODES").splitlines()]

    def _at(self, address: str) -> RedisServer:
        port = int(address.partition("@")[0].rpartition(":")[2])
        return next(node for node in self.nodes if node.port == port)

    async def in_step(self) -> None:
        """Wait until every replica has what its master has acknowledged so far."""
        for replica in self.replicas:
            master = self._at(f"127.0.0.1:{(await self._replication(replica))['master_port']}")
            offset = int((await self._replication(master))["master_repl_offset"])

            async def has_all(replica: RedisServer = replica, offset: int = offset) -> bool:
                return int((await self._replication(replica))["slave_repl_offset"]) >= offset

            await wait_for(has_all, _JOINED_WITHIN_S, "a replica to catch up")

    @staticmethod
    async def _replication(node: RedisServer) -> dict[str, str]:
        return await asyncio.to_thread(read_info, node.port, "replication")

    async def cut_link(self, master: RedisServer) -> None:
        """Cut a master off from its replica until `restore`, or until the replica takes over: it lacks what follows."""
        replica = await asyncio.to_thread(self.replica_of, master)
        assert (await asyncio.to_thread(master.command, "ACL", "DELUSER", _USER[0])).startswith(b":")

        async def is_cut() -> bool:
            return "master_link_status:down" in await asyncio.to_thread(text_of, replica.port, "INFO replication")

        await wait_for(is_cut, _JOINED_WITHIN_S, "the link to be cut")

    async def promote(self, replica: RedisServer) -> None:
        """Let a replica take over from its master, which is away; return once it has (see `NO_FAILOVER`)."""
        await asyncio.to_thread(_let_take_over, replica, allowed=True)
        await _has_taken_over(replica)
        await asyncio.to_thread(_let_take_over, replica, allowed=False)

    async def hand_over(self, replica: RedisServer) -> None:
        """Let a replica and its master, which runs, swap their roles: nothing is lost.

        The replica gives up after 5 s without a word, as when its master stands still, so it is told again.
        """
        until = time.monotonic() + _JOINED_WITHIN_S
        while await asyncio.to_thread(role_of, replica) != b"master":
            assert time.monotonic() < until, f"not within {_JOINED_WITHIN_S:g} s: the replica to take over"
            await asyncio.to_thread(replica.command, "CLUSTER", "FAILOVER")
            with suppress(TimeoutError):
                async with asyncio.timeout(_GIVES_UP_S):
                    await _has_taken_over(replica)

    def destroy(self) -> None:
        """Kill all nodes and delete their data."""
        for node in self.nodes:
            node.destroy()

    def flush(self) -> None:
        """Delete all keys of all masters."""
        for node in self.nodes:
            if b"master" in role_of(node):
                assert node.command("FLUSHALL") == b"+OK"

    def _wait(self, met: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _JOINED_WITHIN_S
        while not _is(met):
            if time.monotonic() > until:
                pytest.fail(f"not within {_JOINED_WITHIN_S:g} s: {what}")
            time.sleep(0.05)


def _succeeds(node: RedisServer, *command: str) -> bool:
    return node.command(*command) == b"+OK"


def _is(met: Callable[[], bool]) -> bool:
    try:
        return met()
    except OSError:
        return False  # a node stands still, or has cut its connections


async def _has_taken_over(replica: RedisServer) -> None:
    async def is_master() -> bool:
        return await asyncio.to_thread(role_of, replica) == b"master"

    await wait_for(is_master, _JOINED_WITHIN_S, "the replica to take over")


def _let_take_over(replica: RedisServer, *, allowed: bool) -> None:
    assert replica.command("CONFIG", "SET", "cluster-replica-no-failover", "no" if allowed else "yes") == b"+OK"


def _holds(words: str, slot: int) -> bool:
    """Return whether a range of slots (`5`, `0-5460`) has one; a slot on its way is in brackets, beside the ranges."""
    if words.startswith("["):
        return False
    first, _, last = words.partition("-")
    return int(first) <= slot <= int(last or first)


def text_of(port: int, command: str) -> str:
    """Return a whole answer in bulk, as text."""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_TIMEOUT_S) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("rb") as answer:
            head = answer.readline().strip()
            return answer.read(int(head[1:])).decode() if head.startswith(b"$") else head.decode()


def info_of(node: RedisServer) -> dict[str, str]:
    """Return a node's CLUSTER INFO."""
    lines = text_of(node.port, "CLUSTER INFO").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def id_of(node: RedisServer) -> str:
    """Return a node's name in the cluster."""
    return text_of(node.port, "CLUSTER MYID").strip()


def role_of(node: RedisServer) -> bytes:
    """Return the role of a node, as INFO says."""
    return text_of(node.port, "INFO replication").split("role:", 1)[1].split("\r\n", 1)[0].encode()


async def move_slot(cluster: Cluster, slot: int, to: RedisServer | None = None) -> None:
    """Move a slot and its keys to another node, key by key, as a rebalancing does."""
    source = cluster.owner_of(slot)
    target = to or next(node for node in cluster.nodes if node is not source and role_of(node) == b"master")
    assert target.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", id_of(source)) == b"+OK"
    assert source.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", id_of(target)) == b"+OK"
    client: Any = connect(source.url, max_connections=1, socket_timeout_s=2 * _ANSWER_TIMEOUT_S)
    try:
        while keys := await client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            for key in keys:
                await wait_for(partial(_migrate, client, target, key), PATIENCE_S, "the cluster to let a key move")
                await asyncio.sleep(0.001)
    finally:
        await client.aclose()
    for node in (target, source):
        assert node.command("CLUSTER", "SETSLOT", str(slot), "NODE", id_of(target)) == b"+OK"


async def _migrate(client: Any, target: RedisServer, key: bytes) -> bool:
    """Move a key; return whether both nodes allowed it: on a busy machine nodes may lose sight of each other."""
    try:
        answer = await client.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 30_000, "REPLACE")
    except ClusterDownError:
        return False
    except ResponseError as error:
        if "CLUSTERDOWN" not in str(error):  # the target's, in the words of the source
            raise
        return False
    assert answer in {b"OK", "OK", b"NOKEY", "NOKEY"}
    return True


@contextmanager
def running_cluster(kind: Kind = "valkey", options: Sequence[str] = ()) -> Iterator[Cluster]:
    """Run a cluster while the block runs."""
    cluster = Cluster(kind, options=options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.destroy()
