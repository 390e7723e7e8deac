"""`kurir receipts`, as a process: what waits, what could not be read, and reading it again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from services.receipts.consumer import Source
from services.receipts.reading import Reading
from tests.integration.receipts.world import SOURCES, World, statuses
from tests.servers import free_port


async def run(redis_url: str, *options: str) -> tuple[int, str, str]:
    """Run the command; return its exit code, its output and its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "receipts", "--redis-url", redis_url, *options),
        env={name: value for name, value in os.environ.items() if not name.startswith("KURIR_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def as_json(redis_url: str, *options: str) -> dict[str, Any]:
    """Run the command with --json, and return what it prints."""
    code, output, errors = await run(redis_url, "--json", *options)
    assert code == 0, errors
    found: dict[str, Any] = json.loads(output)
    return found


async def test_shows_what_waits_and_what_could_not_be_read(world: World) -> None:
    """Counts, and for each entry set aside when it was taken, from whom, and why; its body with --json."""
    assert (await run(world.url))[1].startswith("0 wait to be read; 0 could not be read")
    entry_id = await world.inbox.add("meta", b'{"object": "page\xff"}')
    async with world.consumer("one").running():
        await world.emptied()
    await world.inbox.add("meta", statuses("wamid.A"))
    seen = await as_json(world.url)
    (entry,) = seen.pop("entries")
    assert seen.pop("oldestAgeSeconds") >= 0
    assert seen == {"waiting": 1, "setAside": 1, "readAgain": 0}
    assert (entry["entry"], entry["provider"], entry["bytes"]) == (entry_id, "meta", 19)
    assert entry["body"] == '{"object": "pageÿ"}'
    _, output, _ = await run(world.url)
    assert "1 wait to be read, the oldest for" in output
    assert entry["reason"] in output
    assert entry_id in output


async def test_reads_entries_again(world: World) -> None:
    """After an upgrade everything that was set aside is read again; what is still unreadable is set aside again."""
    limited = {**SOURCES, "meta": Source(lambda *_: Reading(problem="unknown status"), "whatsapp")}
    bodies = [statuses(*(f"wamid.{n}.{one}" for one in range(2_000))) for n in range(60)]
    for body in [*bodies, b"nonsense"]:
        await world.inbox.add("meta", body)
    async with world.consumer("old", limited).running():
        await world.emptied()
    assert (await world.inbox.counts()).set_aside == 61
    seen = await as_json(world.url, "--read-again", "--limit", "0")
    assert (seen["readAgain"], seen["waiting"], seen["setAside"], seen["entries"]) == (61, 61, 0, [])
    async with world.consumer("new").running():
        await world.emptied()
    assert len(await world.receipts()) == 120_000
    (aside,) = await world.inbox.list_set_aside(10)
    assert (aside.why, aside.body) == ("it is not JSON", b"nonsense")


async def test_says_that_redis_is_away() -> None:
    """Without Redis there is one line on stderr, and exit code 3 or higher than a usage error's."""
    code, output, errors = await run(f"redis://127.0.0.1:{free_port()}/0")
    assert (code > 0, output) == (True, "")
    assert errors.startswith("kurir receipts: ")
