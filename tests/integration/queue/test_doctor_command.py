"""`kurir doctor`, as a process, with a real Redis and an HTTP server in place of the logger."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from services.cli.doctor import Visit, examine
from shared.events import Ended
from tests.integration.queue.webhooks import deliver, endpoint, publish
from tests.integration.queue.world import World, open_world
from tests.servers import free_port


@asynccontextmanager
async def logger_with(jobs: list[dict[str, object]]) -> AsyncIterator[str]:
    """Serve open jobs, one per page, as the logger does."""

    async def open_jobs(request: web.Request) -> web.Response:
        assert request.query["olderThanSeconds"] == "60"
        place = int(request.query.get("cursor", "0"))
        following = str(place + 1) if place + 1 < len(jobs) else None
        return web.json_response({"success": True, "jobs": jobs[place : place + 1], "nextCursor": following})

    app = web.Application()
    app.router.add_get("/internal/open-jobs", open_jobs)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def run_doctor(redis_url: str, logger_url: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the command; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "doctor", "--json", "--redis-url", redis_url, "--url", logger_url),
        *options,
        env={name: value for name, value in os.environ.items() if not name.startswith("KURIR_")},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, orjson.loads(output)


async def test_the_command_reports_repairs_and_exits_accordingly(valkey_url: str) -> None:
    """A finding without a repair: exit code 1. After the repair: 0, and nothing is found."""
    world: World = open_world(valkey_url)
    await world.given(3)
    await world.redis.hincrby("{email}:counters", "sent", 2)
    rows: list[dict[str, object]] = [
        {"jobId": "gone:1:whatsapp", "run": 1, "status": "queued", "attempts": 0},
        {"jobId": "gone:2:whatsapp", "run": 1, "status": "processing", "attempts": 1},
    ]
    await world.written()
    async with logger_with(rows) as logger_url:
        code, told = await run_doctor(valkey_url, logger_url)
        assert (code, told["healthy"]) == (1, False)
        code, mended = await run_doctor(valkey_url, logger_url, "--repair")
        assert code == 0, mended
        assert {(one["channel"], one["count"], one["repaired"]) for one in mended["findings"]} == {
            ("email", 2, True),
            ("whatsapp", 2, True),
        }
    ended = [event for event in await world.written() if isinstance(event, Ended)]
    assert {event.error_class for event in ended} == {"lost"}
    async with logger_with([]) as logger_url:
        assert (await examine(Visit(valkey_url, logger_url, "", 60, repair=False))).findings == []
    await world.redis.aclose()


async def test_every_endpoint_of_webhooks_is_examined(valkey_url: str) -> None:
    """What is wrong in one endpoint's partition is found under its name and repaired, and no other is blamed."""
    world: World = open_world(valkey_url)
    await publish(world.redis, endpoint(3), endpoint(20))
    for number in (3, 20):
        await deliver(world.redis, number, 0, 3)
    await world.redis.hincrby("{webhook.20}:counters", "sent", 2)
    async with logger_with([]) as logger_url:
        code, mended = await run_doctor(valkey_url, logger_url, "--repair")
        assert code == 0, mended
        (finding,) = mended["findings"]
        assert (finding["channel"], finding["count"], finding["repaired"]) == ("webhook.20", 2, True)
        assert (await examine(Visit(valkey_url, logger_url, "", 60, repair=False))).findings == []
    await world.redis.aclose()


async def test_the_command_reports_a_redis_that_would_lose_jobs(valkey_url: str) -> None:
    """The finding is wrong, with advice, and not repaired, because only Redis's operator can repair it."""
    world: World = open_world(valkey_url)
    await world.redis.config_set("maxmemory-policy", "volatile-ttl")
    try:
        async with logger_with([]) as logger_url:
            code, told = await run_doctor(valkey_url, logger_url, "--repair")
    finally:
        await world.redis.config_set("maxmemory-policy", "noeviction")
        await world.redis.aclose()
    (finding,) = told["findings"]
    assert (code, told["healthy"], finding["channel"], finding["repaired"]) == (1, False, "redis", False)
    assert "maxmemory-policy volatile-ttl" in finding["what"]
    assert finding["detail"] == "set maxmemory-policy noeviction"


async def test_the_queue_is_examined_while_the_logger_is_away(valkey_url: str) -> None:
    """The doctor reports what it could not compare, and still repairs what is wrong in Redis."""
    world: World = open_world(valkey_url)
    await world.given(3)
    await world.redis.hincrby("{email}:counters", "sent", 2)
    report = await examine(Visit(valkey_url, f"http://127.0.0.1:{free_port()}", "", 60, repair=True))
    assert "cannot reach" in report.unreachable
    assert [(finding.count, finding.repaired) for finding in report.findings] == [(2, True)]
    await world.redis.aclose()
