"""The cost of partitions: the whole system with one and four on one server, and with twelve on a cluster, in turns."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from benchmarks.kurir import Kurir
from benchmarks.kurir_works import check_delivered, send_blast
from benchmarks.measured import Measurement, measured
from benchmarks.peer import redis_for
from benchmarks.processes import Usage, usage_of
from benchmarks.sink import Sink
from benchmarks.suite import line
from benchmarks.workload import Load
from shared.queue.keys import GATEWAY_EVENTS, PartitionKeys
from shared.queue.slots import slot_of
from tests.clusters import Cluster
from tests.servers import RedisServer

ONE, FOUR, CLUSTER = "1 partition", "4 partitions", "12 partitions on 3 masters"
MOST_DEARER = 0.10
_MASTERS = 3

Owner = Callable[[str], RedisServer]


class SpreadKurir(Kurir):
    """The services with several partitions, on one server or on the masters of a cluster.

    `owner` returns the server that has a key; `url` is how the services find it.
    """

    def __init__(self, servers: Sequence[RedisServer], owner: Owner, load: Load, folder: Path, smtp_port: int) -> None:
        super().__init__(servers[0], load, folder, smtp_port)
        self._servers = servers
        self._owner = owner
        self._clients = {server.port: redis.Redis(port=server.port) for server in servers}
        self._keys = [PartitionKeys("email")]

    def spread(self, url: str, partitions: int) -> None:
        """Use this number of partitions; call it before the services start."""
        self.env |= {"KURIR_REDIS_URL": url, "KURIR_PARTITIONS": str(partitions)}
        self._keys = [PartitionKeys("email", index) for index in range(partitions)]

    def _client(self, key: str) -> redis.Redis:
        return self._clients[self._owner(key).port]

    def sent(self) -> int:
        """Return the number of messages that the queue counts as sent."""
        keys = [one.key("counters") for one in self._keys]
        return sum(int(self._client(key).hget(key, "sent") or 0) for key in keys)

    def _all_logged(self) -> bool:
        return not any(self._client(key).xlen(key) for key in (GATEWAY_EVENTS, *(one.events for one in self._keys)))

    def usage(self, others: Mapping[str, int]) -> Usage:
        """Return the usage of the services, each server and `others` (name to pid)."""
        named = [(child.name.rpartition("-")[0], child.pid) for child in self._children]
        nodes = [(f"valkey {number}", server.pid) for number, server in enumerate(self._servers, 1)]
        return usage_of([*named, *nodes, *others.items()])


@contextmanager
def _one_server(load: Load) -> Iterator[tuple[Sequence[RedisServer], Owner, str]]:
    with redis_for(load) as server:
        yield [server], lambda _key: server, server.url


@contextmanager
def _cluster(load: Load) -> Iterator[tuple[Sequence[RedisServer], Owner, str]]:
    cluster = Cluster(masters=_MASTERS, replicas=0, options=["--appendfsync", load.append_fsync])
    try:
        cluster.start()
        owners = {slot: cluster.owner_of(slot) for slot in map(slot_of, _keys_of(12))}
        yield cluster.masters, lambda key: owners[slot_of(key)], cluster.url
    finally:
        cluster.destroy()


def _keys_of(partitions: int) -> list[str]:
    return [GATEWAY_EVENTS, *(PartitionKeys("email", index).events for index in range(partitions))]


def run_once(work: str, load: Load, folder: Path) -> Measurement:
    """Send one blast through the whole system."""
    partitions = int(work.partition(" ")[0])
    sink = Sink(folder)
    try:
        with (_cluster if work == CLUSTER else _one_server)(load) as (servers, owner, url):
            kurir = SpreadKurir(servers, owner, load, folder, sink.port)
            kurir.spread(url, partitions)
            try:
                kurir.start(["logger", "ingest", "email_sender"])
                figures, used = send_blast(kurir, {sink.name: sink.pid})
                check_delivered(kurir, sink)
            finally:
                kurir.stop()
    finally:
        sink.stop()
    return measured(work, "kurir", load.jobs, figures, used)


def shares(one: Measurement) -> list[float]:
    """Return each server's share of their processor time."""
    spent = [value for name, value in one.cpu_ms_per_thousand.items() if name.startswith("valkey")]
    return [value / sum(spent) for value in spent]


def dearer(rounds: Sequence[Mapping[str, Measurement]], work: str) -> float:
    """Return how much more processor time a message takes than with one partition: the median of each round's ratio."""
    cost = [{name: sum(one.cpu_ms_per_thousand.values()) for name, one in found.items()} for found in rounds]
    return statistics.median(one[work] / one[ONE] for one in cost) - 1


def main() -> int:
    """Run the rounds and print the figures; return 1 if four partitions cost too much."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partitions", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds: list[dict[str, Measurement]] = []
    with tempfile.TemporaryDirectory(prefix="kurir-bench-") as folder:
        for number in range(options.rounds):
            rounds.append({})
            for work in (ONE, FOUR, CLUSTER):
                own = Path(folder) / f"{number} {work}"
                own.mkdir()
                rounds[-1][work] = run_once(work, Load(options.messages, 5), own)
                print(line(rounds[-1][work]), dict(rounds[-1][work].cpu_ms_per_thousand))
    for work in (FOUR, CLUSTER):
        print(f"{work}: {dearer(rounds, work):+.1%} processor time a message against {ONE}")
    by_node = " ".join(f"{statistics.median(one):.0%}" for one in zip(*(shares(one[CLUSTER]) for one in rounds)))  # noqa: B905
    print(f"share of each master: {by_node}")
    return int(dearer(rounds, FOUR) > MOST_DEARER)


if __name__ == "__main__":
    raise SystemExit(main())
