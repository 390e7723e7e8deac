"""The load of the benchmark of hooks: what it sends is genuine, and its numbers are those that the log must show."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.hook_load import SECRET, Arrivals, Wanted, make_hooks, request, run_load
from benchmarks.processes import BenchmarkError
from services.ingest.hooks.signatures import Delivery, check_meta
from services.receipts.providers import READERS


@pytest.mark.parametrize(("batch", "seconds"), [(10, 6.0), (7, 5.0), (1, 4.5)])
def test_every_message_is_reported_once_as_each_kind(batch: int, seconds: float) -> None:
    """Whatever the batches: signed, readable, and as many receipts and read messages as the benchmark expects."""
    wanted = Wanted(messages=0, statuses=60, batch=batch, seconds=seconds)
    found: Counter[tuple[str, str]] = Counter()
    ignored = 0
    for hook in make_hooks(wanted).requests:
        head, _, body = hook.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
        check_meta(SECRET, Delivery(lines, body, 0.0))
        reading = READERS["meta"](body, 0.0)
        assert reading.problem == ""
        ignored += reading.ignored
        found.update((one.job_id, one.kind) for one in reading.receipts)
    assert set(found.values()) == {1}
    assert len(found) == wanted.receipts
    assert ignored == wanted.reported
    assert sum(kind == "read" for _, kind in found) == wanted.read
    assert {job_id.partition(":")[0] for job_id, _ in found} == {"bench"}


def test_each_request_is_timed_from_when_it_was_due() -> None:
    """More requests at once than connections: each is answered once, in pieces, and waits count as their time."""
    with _answering(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n", b"{}") as (port, taken):
        times = run_load(port, Arrivals([request("/", b"1")] * 120, 0.0), Arrivals([request("/", b"2")] * 2, 0.0))
    assert len(times) == 120
    assert sorted(taken) == [b"1"] * 120 + [b"2"] * 2
    assert max(times) >= 2 * _ANSWERS_AFTER_S * 1000


def test_a_request_that_is_not_taken_ends_the_load() -> None:
    """A refusal, and a connection that is closed instead of an answer, are errors of the run."""
    for answer, why in ((b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "429"), (b"", "closed")):
        with _answering(answer, b"") as (port, _), pytest.raises(BenchmarkError, match=why):
            run_load(port, Arrivals([request("/", b"1")], 0.0), Arrivals([], 0.0))


_ANSWERS_AFTER_S = 0.01


@contextmanager
def _answering(*pieces: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Serve every request with these pieces, or close its connection; give the port and the bodies that came."""
    taken: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                taken.append(await reader.readexactly(1))
                await asyncio.sleep(_ANSWERS_AFTER_S)
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                if not any(pieces):
                    return
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1], taken
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    """Close a server once no connection is left: one that was accepted but not yet served would stay open forever."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    server.close()
    await server.wait_closed()
