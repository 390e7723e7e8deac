"""The example receiver: it handles what Kurir signed, once, and nothing else."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.webhooks import make_secret, sign
from tests.servers import free_port, wait_for

EXAMPLE = Path(__file__).parents[3] / "examples" / "webhook_receiver.py"


@dataclass
class Receiver:
    """A running receiver, and the lines that it printed."""

    secret: str
    url: str
    output: Path

    async def post(self, webhook_id: str, body: bytes, /, **changes: str) -> int:
        """Send a body as Kurir does, with some headers changed; return the status of the answer."""
        now_s = int(time.time())
        headers = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign([self.secret], webhook_id, now_s, body),
            "content-type": "application/json",
        }
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        async with aiohttp.ClientSession() as http, http.post(self.url, data=body, headers=headers) as answer:
            return answer.status

    def handled(self) -> list[str]:
        """Return what was handled so far."""
        return self.output.read_text().splitlines()


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    port, secret, output = free_port(), make_secret(), tmp_path / "output"
    env = os.environ | {"WEBHOOK_SECRET": secret}
    with output.open("wb") as out, (tmp_path / "errors").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLE), str(port), env=env, cwd=tmp_path, stdout=out, stderr=errors
        )
    await wait_for(lambda: _answers(port))
    yield Receiver(secret, f"http://127.0.0.1:{port}/", output)
    process.terminate()
    await process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def event(number: int) -> dict[str, Any]:
    return {"type": "message.sent", "timestamp": "2026-11-29T04:00:00.000Z", "data": {"jobId": f"b:{number}:email"}}


def test_it_has_thirty_lines() -> None:
    """Besides docstrings and empty lines: it is to be read in one go."""
    source = EXAMPLE.read_text("utf-8")
    words: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            words |= {*range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    code = [line for number, line in enumerate(source.splitlines(), 1) if line.strip() and number not in words]
    assert len(code) <= 30


async def test_an_event_is_handled_once(receiver: Receiver) -> None:
    """It may arrive again, later or at the same time, alone or in a batch."""
    body = json.dumps(event(1)).encode()
    assert await asyncio.gather(*(receiver.post("evt_1", body) for _ in range(5))) == [204] * 5
    batch = {
        "type": "batch",
        "timestamp": "2026-11-29T04:00:01.000Z",
        "data": [{"id": f"evt_{n}"} | event(n) for n in (1, 2, 3)],
    }
    for _ in range(2):
        assert await receiver.post("bat_1_1", json.dumps(batch).encode()) == 204
    assert await receiver.post("evt_3", json.dumps(event(3)).encode()) == 204
    assert [line.split(" ", 2)[1:] for line in receiver.handled()] == [
        ["message.sent", f'{{"jobId": "b:{number}:email"}}'] for number in (1, 2, 3)
    ]


async def test_a_request_by_another_is_refused(receiver: Receiver) -> None:
    """A body, id or time that was not signed; a signature by another secret; an old one; none at all."""
    body = json.dumps(event(1)).encode()
    old_s = int(time.time()) - 301
    refused = [
        await receiver.post("evt_1", body, webhook_id="evt_2"),
        await receiver.post("evt_1", body, webhook_timestamp=str(int(time.time()) - 60)),
        await receiver.post("evt_1", body, webhook_timestamp="soon"),
        await receiver.post("evt_1", body, webhook_signature=sign([make_secret()], "evt_1", int(time.time()), body)),
        await receiver.post("evt_1", body, webhook_signature="v1,"),
        await receiver.post("evt_1", body, webhook_signature=""),
        await receiver.post("evt_1", body, webhook_signature="v1a,\u00e9"),
        await receiver.post(
            "evt_1",
            body,
            webhook_timestamp=str(old_s),
            webhook_signature=sign([receiver.secret], "evt_1", old_s, body),
        ),
    ]
    assert refused == [401] * len(refused)
    assert receiver.handled() == []


async def test_one_of_two_signatures_is_enough(receiver: Receiver) -> None:
    """While a secret is rotated, requests are signed by the new one and the old one."""
    body, now_s = json.dumps(event(1)).encode(), int(time.time())
    for secrets in ([make_secret(), receiver.secret], [receiver.secret, make_secret()]):
        signature = sign(secrets, "evt_1", now_s, body)
        assert await receiver.post("evt_1", body, webhook_timestamp=str(now_s), webhook_signature=signature) == 204
    assert len(receiver.handled()) == 1
