"""A client with two webhooks, whose endpoints fail on demand, and the judge of what reached them.

Which events there must be follows from the log: one for the end of each message, and one for the end of each blast.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from shared.webhooks import sign
from tests.faults.checks import Checks
from tests.faults.client import Posted
from tests.faults.oracle import Oracle
from tests.servers import free_port

FAILURES: tuple[int | str, ...] = (302, 400, 404, 429, 500, 502, "cut", "hang")
_TIMEOUT_S = 2.0
ENV = {"KURIR_WEBHOOK_ALLOW": "127.0.0.1", "KURIR_WEBHOOK_TIMEOUT": f"{_TIMEOUT_S:g}s"}
_WEBHOOKS: dict[str, dict[str, Any]] = {
    "all": {"events": ["*"], "batch": {"max": 100, "withinMs": 500}},
    "some": {"events": ["message.failed", "message.cancelled", "blast.completed", "blast.incomplete"]},
}
# its second attempt may have failed too: the third comes 5 minutes later
_PATIENCE_S, _SECOND_WAIT_S = 120.0, 330.0

Key = tuple[str, str, int]


class WebhookClient:
    """The endpoints `all`, in batches, and `some`; `failing` is how they fail now, but each request at most once."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._secrets: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._once: set[str] = set()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._port = free_port()
        self.failing: int | str = ""
        self.taken: dict[str, dict[Key, set[str]]] = {name: defaultdict(set) for name in _WEBHOOKS}
        self.bodies: dict[str, set[bytes]] = defaultdict(set)
        self.forged: list[str] = []
        self.failed: Counter[int | str] = Counter()

    @asynccontextmanager
    async def registered(self) -> AsyncIterator[None]:
        """Listen, and register both webhooks; both stay registered."""
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_post("/{name}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await self.come_back()
        try:
            for name, fields in _WEBHOOKS.items():
                body = {"url": f"http://127.0.0.1:{self._port}/{name}", **fields}
                status, answer = await self._oracle.world.client.call("POST", "/api/v1/webhooks", json=body)
                assert status == 201, answer
                self._ids[name], self._secrets[name] = answer["webhook"]["id"], answer["secret"]
            yield
        finally:
            await self._runner.cleanup()

    async def go_away(self) -> None:
        """Refuse connections, and close those that are open."""
        if self._site is not None and self._runner is not None and self._runner.server is not None:
            await self._site.stop()
            await self._runner.server.shutdown(0.1)
            self._site = None

    async def come_back(self) -> None:
        """Listen again."""
        if self._site is None and self._runner is not None:
            self._site = web.TCPSite(self._runner, "127.0.0.1", self._port)
            await self._site.start()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        name, body = request.match_info["name"], await request.read()
        webhook_id, stamp = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
        if request.headers["webhook-signature"] != sign([self._secrets.get(name, "")], webhook_id, stamp, body):
            self.forged.append(webhook_id)
        self.bodies[webhook_id].add(hashlib.blake2b(body, digest_size=16).digest())
        if self.failing and webhook_id not in self._once:
            self._once.add(webhook_id)
            self.failed[self.failing] += 1
            return await self._fail(request)
        for event_id, event in _events(webhook_id, orjson.loads(body)):
            data = event["data"]
            key = (event["type"], str(data.get("jobId") or data.get("blastId", "")), int(data.get("run", 0)))
            self.taken[name][key].add(event_id)
        return web.Response(status=204)

    async def _fail(self, request: web.Request) -> web.StreamResponse:
        if self.failing == "hang":
            await asyncio.sleep(2 * _TIMEOUT_S)
        if isinstance(self.failing, int):
            return web.Response(status=self.failing, headers={"Retry-After": "1"} if self.failing == 429 else {})
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def audit(self, blasts: Sequence[Posted]) -> None:
        """G9: every event that follows from the log arrived, under one id, with one body, signed."""
        client, checks = self._oracle.world.client, self._oracle.checks
        rows = [row for posted in blasts for row in await client.rows(posted.blast_id)]
        every = {(f"message.{row['status']}", row["job_id"], row["run"]) for row in rows}
        ended = {posted.blast_id for posted in blasts if posted.cancelled_at is None}
        expected = {"all": every, "some": {key for key in every if key[0] in _WEBHOOKS["some"]["events"]}}
        patience_s = max(_PATIENCE_S, _SECOND_WAIT_S * self._oracle.world.form.scale)
        await self._oracle.within(
            lambda: not any(missing(keys, ended, self.taken[name]) for name, keys in expected.items()), patience_s
        )
        for name, keys in expected.items():
            judge_arrivals(checks, name, keys, ended, self.taken[name])
            shown = (await client.get(f"/api/v1/webhooks/{self._ids[name]}"))["webhook"]
            checks.that("G9", shown["enabled"], f"the webhook {name!r} was disabled: {shown}")
        changed = [webhook_id for webhook_id, found in self.bodies.items() if len(found) > 1]
        checks.none("G9", changed, len(self.bodies), "deliveries with two bodies under one id")
        checks.none("G9", self.forged, len(self.bodies), "deliveries with a wrong signature")


def missing(expected: Set[Key], ended: Set[str], taken: Mapping[Key, Set[str]]) -> list[object]:
    """Return the messages' ends that did not arrive, and the blasts of which no end did."""
    reported = {subject for kind, subject, _ in taken if kind in {"blast.completed", "blast.incomplete"}}
    return [*sorted(expected - taken.keys()), *sorted(ended - reported)]


def judge_arrivals(
    checks: Checks, name: str, expected: Set[Key], ended: Set[str], taken: Mapping[Key, Set[str]]
) -> None:
    """G9: each event that is expected at a webhook arrived, and under one id however often."""
    lost = missing(expected, ended, taken)
    checks.none("G9", lost, len(expected) + len(ended), f"events that did not reach the webhook {name!r}")
    renamed = [key for key in expected if len(taken.get(key, ())) > 1]
    checks.none("G9", renamed, len(expected), f"events that reached the webhook {name!r} under two ids")


def _events(webhook_id: str, event: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a request with their ids."""
    if event["type"] != "batch":
        return [(webhook_id, event)]
    return [(one["id"], one) for one in event["data"]]
