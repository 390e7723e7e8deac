"""What the oracle grants for an answer that was lost, and what it does not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.checks import Checks
from tests.faults.client import Posted, people
from tests.faults.oracle import Oracle
from tests.faults.proxies import MailProxy
from tests.servers import wait_for


async def test_an_answer_lost_before_its_blast_was_answered_is_granted() -> None:
    """A sender may be faster than the answer to the POST: the job has its id only later."""
    posted = Posted("key", ["email"], people(2, "early"))
    proxy = MailProxy(0)
    world: Any = SimpleNamespace(mails={"email_sender": proxy})
    proxy.lost_answers[posted.recipients[1]["email"]] += 1
    posted.blast_id = "b"
    oracle = Oracle(world, Checks())
    oracle.allow(["b:0:email"])
    assert oracle.granted([posted]) == {"b:0:email": 1, "b:1:email": 1}


@pytest.mark.parametrize(
    ("patience_s", "waits_s", "stood_still_s", "lost"),
    [(0.2, 0.3, 0.0, {"a@example.com": 1}), (600.0, 0.0, 0.0, {}), (600.0, 0.0, 600.0, {"a@example.com": 1})],
    ids=["waited", "hung up", "waited while the proxy stood still"],
)
async def test_a_sender_that_timed_out_has_lost_its_answer(
    patience_s: float, waits_s: float, stood_still_s: float, lost: dict[str, int]
) -> None:
    """One that hangs up sooner is not excused: what it sends again is a duplicate."""
    taken = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n.\r\n")
        taken.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    proxy = MailProxy(server.sockets[0].getsockname()[1], patience_s)
    await proxy.start()
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    for line in (b"RCPT TO:<a@example.com>\r\nDATA\r\n", b"Hello\r\n.\r\n"):
        writer.write(line)
        await writer.drain()
        await asyncio.sleep(0.05)  # each its own piece, as a client that waits for answers sends them
    await taken.wait()
    proxy.stalls.append((time.time(), stood_still_s))
    await asyncio.sleep(waits_s)
    writer.close()
    await wait_for(lambda: not proxy.pairs, what="the proxy to see the end")
    assert proxy.lost_answers == Counter(lost)
    await proxy.stop()
    server.close()
