"""The Redis of a world: one server, or a master with a replica, with or without Sentinels.

The replica logs in as its own user, so that a test can cut its link for as long as it needs to: the master deletes
that user, which closes the connection.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shared.errors import QueueUnavailableError
from shared.queue.connection import connect, translated
from tests.sentinels import FAILOVER_TIMEOUT_S, SERVICE, Sentinel
from tests.servers import Kind, RedisServer, read_info, wait_for

_LINK_TIMEOUT_S, _POLL_S = 30.0, 0.1
_USER = ("replication", "on", ">of-a-test", "+psync", "+replconf", "+ping")
_OPTIONS = (
    "--user",
    *_USER,
    "--masteruser",
    "replication",
    "--masterauth",
    "of-a-test",
    "--repl-diskless-sync-delay",
    "0",
)


class RedisServers:
    """The servers of a world; `master` and `replica` swap at a failover."""

    def __init__(self, kind: Kind = "valkey", *, replica: bool = False, sentinels: int = 0) -> None:
        self.master = RedisServer(kind, _OPTIONS)
        self._kind: Kind = kind
        self._replica = RedisServer(kind, _OPTIONS) if replica or sentinels else None
        self._wanted = sentinels
        self.sentinels: list[Sentinel] = []

    @property
    def replica(self) -> RedisServer:
        """The replica; only if the world has one."""
        assert self._replica is not None, "this world has no replica"
        return self._replica

    @property
    def url(self) -> str:
        """The URL by which clients find the master: its own, or the Sentinels'."""
        if not self.sentinels:
            return self.master.url
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{SERVICE}/0"

    async def start(self) -> None:
        """Start everything; return once the replica has caught up and the Sentinels know each other."""
        await asyncio.to_thread(self.master.start)
        if self._replica is None:
            return
        await self.start_replica()
        quorum = self._wanted // 2 + 1
        self.sentinels += [Sentinel(self.master.port, quorum, kind=self._kind) for _ in range(self._wanted)]
        await wait_for(self._sentinels_know_each_other, _LINK_TIMEOUT_S, "the Sentinels to meet")

    async def start_replica(self) -> None:
        """Start the replica if it does not run, and attach it; return once it has caught up.

        It never says that it is a master: a Sentinel that heard so 8 s ago, and asks again just after it was promoted,
        takes that for the same, and makes it a replica again.
        """
        of_master = ("127.0.0.1", str(self.master.port))
        if not self.replica.runs():
            await asyncio.to_thread(self.replica.start, "--replicaof", *of_master)
        await asyncio.to_thread(self.replica.command, "REPLICAOF", *of_master)
        await self.in_step()

    async def in_step(self) -> None:
        """Wait until the replica has every write that the master has acknowledged so far."""
        offset = int((await wait_for(lambda: _info(self.master), _LINK_TIMEOUT_S, "an answer"))["master_repl_offset"])

        async def has_caught_up() -> bool:
            info = await _info(self.replica)
            return info.get("master_link_status") == "up" and int(info["slave_repl_offset"]) >= offset

        await wait_for(has_caught_up, _LINK_TIMEOUT_S, "the replica to catch up")

    async def cut_link(self) -> None:
        """Cut the replica off from its master, which continues without it, until a failover or a restart."""
        await asyncio.to_thread(self.master.command, "ACL", "DELUSER", "replication")

        async def is_cut() -> bool:
            return (await _info(self.replica)).get("master_link_status") == "down"

        await wait_for(is_cut, _LINK_TIMEOUT_S, "the replica to lose its link")

    async def failed_over(self) -> None:
        """Let a Sentinel promote the replica of a dead master; return once the Sentinels lead clients to it."""

        async def is_master() -> bool:
            # asked for again, since a Sentinel may know no good replica yet
            with suppress(OSError):
                await asyncio.to_thread(self.sentinels[0].command, "SENTINEL", "FAILOVER", SERVICE)
            await asyncio.sleep(_POLL_S)
            return (await _info(self.replica)).get("role") == "master"

        try:
            await wait_for(is_master, FAILOVER_TIMEOUT_S, "the replica to be promoted")
            await wait_for(self._is_reached, FAILOVER_TIMEOUT_S, "the Sentinels to name the new master")
        except BaseException as error:
            error.add_note("\n".join(one.log() for one in self.sentinels))
            raise
        self.master, self._replica = self.replica, self.master

    def destroy(self) -> None:
        """Kill everything and delete its data."""
        for one in self.sentinels:
            one.destroy()
        self.master.destroy()
        if self._replica is not None:
            self._replica.destroy()

    async def _is_reached(self) -> bool:
        client = connect(self.url, max_connections=1)
        try:
            with translated("PING"):
                return bool(await client.ping())
        except QueueUnavailableError:
            return False
        finally:
            await client.aclose()

    def _sentinels_know_each_other(self) -> bool:
        wanted = b"+OK %d " % self._wanted
        try:
            return all(one.command("SENTINEL", "CKQUORUM", SERVICE).startswith(wanted) for one in self.sentinels)
        except OSError:
            return False  # not listening yet


async def _info(server: RedisServer) -> dict[str, str]:
    """Return what a server reports about its replication, nothing if a Sentinel has just cut its connections."""
    try:
        return await asyncio.to_thread(read_info, server.port, "replication")
    except (OSError, ValueError):
        return {}
