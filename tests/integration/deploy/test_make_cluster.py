"""The script that joins the nodes of a cluster, with real nodes that come back at other addresses."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from shared.queue.slots import slot_of
from tests.clusters import NO_FAILOVER, NODE_TIMEOUT_MS, text_of
from tests.servers import RedisServer, free_port, read_info, wait_for

SCRIPT = Path(__file__).resolve().parents[3] / "deploy" / "redis" / "make-cluster.sh"
PASSWORD = "password-of-the-administrator"
NAMES = ["redis", "redis-2", "redis-3", "redis-4", "redis-5", "redis-6"]
PATIENCE_S = 90.0
# Names stand for addresses: the port of each node is in a file of its name, and changes as an address does.
_RESOLVE = '#!/bin/sh\n[ ! -e "$PORTS/$2" ] || echo "$2 $2"\n'
_TRANSLATE = """#!/bin/sh
port=$(cat "$PORTS/$2")
shift 2
[ "$4 $5" != "CLUSTER MEET" ] || set -- "$1" "$2" "$3" CLUSTER MEET 127.0.0.1 "$(cat "$PORTS/$6")"
exec {redis_cli} -p "$port" "$@"
"""
_OPTIONS = [
    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--repl-diskless-sync-delay", "0"),
    *("--user", "admin", "on", f">{PASSWORD}", "~*", "&*", "+@all"),
    *("--masteruser", "admin", "--masterauth", PASSWORD, *NO_FAILOVER),
]


class Nodes:
    """Six nodes by their names, and the script that watches over them."""

    def __init__(self, folder: Path, redis_cli: str) -> None:
        self._ports, tools = folder / "ports", folder / "tools"
        for made in (self._ports, tools, folder / "secrets"):
            made.mkdir()
        (folder / "secrets" / "redis_admin_password").write_text(PASSWORD)
        for name, text in {"getent": _RESOLVE, "redis-cli": _TRANSLATE.format(redis_cli=redis_cli)}.items():
            (tools / name).write_text(text)
            (tools / name).chmod(stat.S_IRWXU)
        text = SCRIPT.read_text().replace("/run/secrets", str(folder / "secrets"))
        self.script = folder / "make-cluster.sh"
        self.script.write_text(text.replace("/tmp/made", str(folder / "made")).replace("WATCH_S=5", "WATCH_S=0.2"))
        self._env = {**os.environ, "PORTS": str(self._ports), "PATH": f"{tools}:{os.environ['PATH']}"}
        self.by_name = {name: RedisServer("redis", _OPTIONS) for name in NAMES}
        self._watching: subprocess.Popen[bytes] | None = None

    def start(self, name: str) -> None:
        """Start a node at another address than before."""
        node = self.by_name[name]
        node.port = free_port()
        node.start()
        (self._ports / name).write_text(str(node.port))

    def watch(self) -> None:
        """Run the script as its container does."""
        self._watching = subprocess.Popen(["sh", str(self.script), *NAMES], env=self._env)

    def is_made(self) -> bool:
        """Return what the container's health check says."""
        return subprocess.run(["sh", str(self.script), "--healthy"], env=self._env, check=False).returncode == 0

    def port(self, name: str) -> int:
        """Return where a node is now."""
        return self.by_name[name].port

    def all_are_joined(self) -> bool:
        """Return whether each node has a link to every other one, takes none for failed, serves and follows."""
        links = [text_of(self.port(name), "CLUSTER NODES") for name in NAMES]
        states = [text_of(self.port(name), "CLUSTER INFO") for name in NAMES]
        whole = all(text.count(" connected") == len(NAMES) and ",fail" not in text for text in links)
        following = [read_info(self.port(name), "replication").get("master_link_status", "up") for name in NAMES]
        return whole and all("cluster_state:ok" in text for text in states) and set(following) == {"up"}

    def destroy(self) -> None:
        """End the script and all nodes."""
        if self._watching is not None:
            self._watching.kill()
            self._watching.wait()
        for node in self.by_name.values():
            node.destroy()


@pytest_asyncio.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    """Six nodes that are a cluster, made by the script."""
    redis_cli = shutil.which("redis-cli")
    if redis_cli is None:
        assert "CI" not in os.environ, "redis-cli is not on PATH, and CI skips no test"
        pytest.skip("redis-cli is not on PATH")
    found = Nodes(tmp_path, redis_cli)
    try:
        for name in NAMES:
            found.start(name)
        assert not found.is_made()
        found.watch()
        await wait_for(found.is_made, PATIENCE_S, "the cluster to be made")
        yield found
    finally:
        found.destroy()


async def test_the_nodes_are_three_masters_with_a_replica_each(nodes: Nodes) -> None:
    """The first half of them have all slots, the others the data of one master each."""
    await wait_for(nodes.all_are_joined, PATIENCE_S, "all nodes to be joined")
    for master, replica in zip(NAMES[:3], NAMES[3:], strict=True):
        assert read_info(nodes.port(master), "replication")["role"] == "master"
        said = read_info(nodes.port(replica), "replication")
        assert (said["master_port"], said["master_link_status"]) == (str(nodes.port(master)), "up")
    assert "cluster_slots_ok:16384" in text_of(nodes.port("redis"), "CLUSTER INFO")


async def test_nodes_that_come_back_elsewhere_find_each_other(nodes: Nodes) -> None:
    """All at once, as after `down` and `up` or a restart of the machine, and some alone; no data is lost."""
    owner = nodes.by_name[NAMES[slot_of("kept") * 3 // 16384]]
    assert owner.command("SET", "{kept}", "yes") == b"+OK"
    for gone in (NAMES, ["redis-6"], ["redis"], ["redis-2", "redis-5"]):
        for name in gone:
            nodes.by_name[name].stop()
        for name in gone:
            nodes.start(name)
        await wait_for(nodes.all_are_joined, PATIENCE_S, f"{gone} to be joined again")
    assert text_of(owner.port, "GET {kept}") == "yes"


async def test_a_replica_ends_although_it_refuses_the_first_signal() -> None:
    """Redis forgets a SIGTERM that comes while a new replica writes its first append-only file."""
    master, replica = RedisServer("redis"), RedisServer("redis", ["--rdb-key-save-delay", "20000"])
    try:
        for server in (master, replica):
            server.start()
        for one in range(100):
            master.command("SET", f"key{one}", "value")
        replica.command("REPLICAOF", "127.0.0.1", str(master.port))
        await wait_for(lambda: read_info(replica.port, "persistence")["aof_rewrite_in_progress"] == "1")
        replica.stop()
        assert not replica.runs()
    finally:
        for server in (master, replica):
            server.destroy()
