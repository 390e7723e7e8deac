"""`kurir up`: the whole system in the foreground of one terminal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from services.cli.data_secrets import REDIS_PASSWORD, make_secrets, read_secret
from services.cli.embedded import find_server, wait_until_answering
from services.cli.plan import Plan, UpOptions, make_plan, with_redis
from services.cli.preflight import check_ports, claimed_folder
from services.cli.supervisor import Announce, Supervisor
from shared.errors import QueueUnavailableError, SettingsError
from shared.lifecycle import Stop, close_to_others
from shared.queue.connection import UnsupportedServerError, check_server, connect
from shared.queue.safety import SafetyCheck
from shared.urls import without_password

_SERVER_TIMEOUT_S = 120.0  # a large append-only file takes time to load
_SAY_WHY_AFTER_S = 10.0
_POLL_S = 0.05


async def run_up(options: UpOptions, env: Mapping[str, str], stop: Stop, announce: Announce) -> None:
    """Run the system until `stop`; raises SettingsError with all problems where it cannot run."""
    options = with_redis(options, env)
    plan = make_plan(options, env, None if options.redis_url else find_server())
    async with running_system(plan, stop, announce) as supervisor:
        if stop.is_set():
            return
        for line in _welcome(plan):
            announce(line)
        await _first(stop, supervisor)
        announce("stopping …")
    announce("stopped")


@asynccontextmanager
async def running_system(plan: Plan, stop: Stop, announce: Announce) -> AsyncIterator[Supervisor]:
    """Run the system while the block runs; yields once the API answers, or `stop` is set.

    Raises SettingsError where it cannot run. Stops everything in order at the end.
    """
    close_to_others()
    with claimed_folder(plan.data_dir, f"pid {os.getpid()}, {plan.url}"):
        check_ports(plan.ports, plan.host)
        _prepare_folders(plan)
        supervisor = Supervisor(announce, plan.grace_s)
        try:
            await _start_server(plan, supervisor, announce)
            for spec in plan.services:
                await supervisor.start(spec)
            await _until_ready(plan, supervisor, stop, announce)
            yield supervisor
        finally:
            await supervisor.stop()
        if supervisor.failed.done():
            raise SettingsError([supervisor.failed.result()])


def _prepare_folders(plan: Plan) -> None:
    try:
        for folder in (plan.data_dir / "redis", plan.log_dir or plan.data_dir):
            folder.mkdir(parents=True, exist_ok=True)
        make_secrets(plan.data_dir)
    except OSError as error:
        raise SettingsError([f"cannot write {error.filename}: {error.strerror}"]) from error


async def _start_server(plan: Plan, supervisor: Supervisor, announce: Announce) -> None:
    if plan.server is None:
        await _check_external(plan.redis_url, announce)
        return
    await supervisor.start(plan.server)
    password = read_secret(plan.data_dir, REDIS_PASSWORD)
    await wait_until_answering(plan.server_port, password, _SERVER_TIMEOUT_S, plan.server_log)


async def _check_external(url: str, announce: Announce) -> None:
    """Refuse a server that is too old; the services wait for one that is away."""
    redis = connect(url, max_connections=1)
    try:
        await check_server(redis)
        safety = await SafetyCheck(redis).run()
    except UnsupportedServerError as error:
        raise SettingsError([str(error)]) from error
    except QueueUnavailableError as error:
        announce(f"Redis at {without_password(url)} does not answer yet ({error}); the services keep trying")
    else:
        for danger in safety.dangers:
            announce(str(danger))
    finally:
        await redis.aclose()


async def _until_ready(plan: Plan, supervisor: Supervisor, stop: Stop, announce: Announce) -> None:
    """Wait until every call of the API can be answered, or until `stop`; after a while, announce why it is not yet.

    The logger answers a part of the calls; senders may follow.
    """
    loop = asyncio.get_running_loop()
    say_why_at = loop.time() + _SAY_WHY_AFTER_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        while not stop.is_set():
            if supervisor.failed.done():
                raise SettingsError([supervisor.failed.result()])
            urls = plan.health_urls
            problems = [await health_problem(http, urls[name]) for name in ("ingest", "logger")]
            reason = next(filter(None, problems), None)
            if reason is None:
                return
            if loop.time() > say_why_at:
                announce(f"not ready yet: {reason}")
                say_why_at = loop.time() + _SAY_WHY_AFTER_S
            await asyncio.sleep(_POLL_S)


async def health_problem(http: aiohttp.ClientSession, url: str) -> str | None:
    """Check a service's health; return None if it is healthy, otherwise the reason."""
    try:
        async with http.get(url) as answer:
            if answer.status == 200:
                return None
            return (await answer.text())[:500]
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"{url} does not answer ({type(error).__name__})"


async def _first(stop: Stop, supervisor: Supervisor) -> None:
    """Wait until `stop` is set, or a child cannot run."""
    waiting: asyncio.Future[None] = asyncio.ensure_future(stop.wait())
    ends: list[asyncio.Future[Any]] = [waiting, supervisor.failed]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _welcome(plan: Plan) -> list[str]:
    lines = [f"Kurir is ready: {plan.url}/console/  (data in {plan.data_dir}, Ctrl-C stops it)"]
    if plan.data_dir.stat().st_mode & 0o077:
        lines.append(f"other users of this machine can read {plan.data_dir}: run chmod 700 on it")
    if plan.sandboxed:
        sandbox = plan.url.replace(f":{plan.options.port}", f":{plan.options.port + 90}")
        lines.append(
            f"SANDBOX: {' and '.join(plan.sandboxed)} messages are NOT delivered to anyone; see them at {sandbox}/"
        )
    if plan.unconfigured:
        lines.append(f"no provider is configured for {' and '.join(plan.unconfigured)}: blasts through it are refused")
    return lines
