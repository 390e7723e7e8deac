"""The HTTP of webhooks, which ingest calls after it has checked a client's request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from services.logger.database import Database
from services.logger.filters import InvalidQueryError, read_span
from services.logger.store import Store
from services.logger.webhooks import endpoints, views
from services.logger.webhooks.bodies import COLUMNS, Journaled
from services.logger.webhooks.changing import change_endpoint
from services.logger.webhooks.feeder import Feeder
from services.logger.webhooks.planning import pack_events
from services.logger.webhooks.sync import EndpointSync
from shared.clock import Clock, rfc3339
from shared.sealing import Seal
from shared.web import content_type_of

_ADD_TEST = """
INSERT INTO webhook_deliveries (number, n, webhook_id, type, events, count, bytes, created_at_ms)
VALUES (?, ?, ?, ?, ?, 1, ?, ?)
"""
_JOURNALED = f"SELECT {COLUMNS} FROM webhook_events WHERE id = ?"  # noqa: S608 -- this code's own names
# the size of a test's body, about
_TEST_BYTES = 200


@dataclass(frozen=True, slots=True)
class Webhooks:
    """What the calls use; `keep_secret_ms` is how long a former secret still signs."""

    store: Store
    sync: EndpointSync
    feeder: Feeder
    seal: Seal
    clock: Clock
    keep_secret_ms: int = endpoints.KEEP_SECRET_MS


class WebhookRoutes:
    """The calls: `/webhooks` and what is below it."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._store = webhooks.store
        self._clock = webhooks.clock

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of all calls."""
        one = "/webhooks/{id}"
        return [
            web.get("/webhooks", self.every),
            web.post("/webhooks", self.create),
            web.get(one, self.one),
            web.patch(one, self.change),
            web.delete(one, self.delete),
            web.post(f"{one}/rotate", self.rotate),
            web.post(f"{one}/test", self.test),
            web.post(f"{one}/replay", self.replay),
            web.get(f"{one}/deliveries", self.deliveries),
        ]

    async def every(self, _request: web.Request) -> web.Response:
        """Answer `GET /webhooks`."""
        shown = await self._store.read(
            lambda connection: [
                views.show(connection, row, alone=False) for row in endpoints.read_rows(connection) if not row.deleted
            ]
        )
        return _json({"success": True, "webhooks": shown})

    async def create(self, request: web.Request) -> web.Response:
        """Answer `POST /webhooks`; the secret is shown in this answer alone."""
        wanted, now_ms = await _body(request), self._clock.now_ms()
        row, secret = await self._store.write(
            lambda connection: endpoints.create(connection, wanted, self._webhooks.seal, now_ms)
        )
        return await self._changed(row.endpoint_id, {"secret": secret}, 201)

    async def one(self, request: web.Request) -> web.Response:
        """Answer `GET /webhooks/{id}`."""
        return _json({"success": True, "webhook": await self._show(_id(request))})

    async def change(self, request: web.Request) -> web.Response:
        """Answer `PATCH /webhooks/{id}`: the given fields, the others stay."""
        wanted, endpoint_id, now_ms = await _body(request), _id(request), self._clock.now_ms()
        await self._store.write(lambda connection: change_endpoint(connection, endpoint_id, wanted, now_ms))
        return await self._changed(endpoint_id)

    async def delete(self, request: web.Request) -> web.Response:
        """Answer `DELETE /webhooks/{id}`: what it has not got yet is dropped."""
        endpoint_id = _id(request)
        await self._store.write(lambda connection: endpoints.delete(connection, endpoint_id))
        self._webhooks.sync.wake()
        return _json({"success": True})

    async def rotate(self, request: web.Request) -> web.Response:
        """Answer `POST /webhooks/{id}/rotate`: both secrets sign for a day."""
        endpoint_id, now_ms = _id(request), self._clock.now_ms()
        given = str((await _body(request)).get("secret") or "")
        until_ms = now_ms + self._webhooks.keep_secret_ms
        rotation = endpoints.Rotation(given, until_ms, now_ms)
        secret = await self._store.write(
            lambda connection: endpoints.rotate(connection, endpoint_id, rotation, self._webhooks.seal)
        )
        self._webhooks.sync.wake()
        return _json({"success": True, "secret": secret, "oldSecretEndsAt": rfc3339(until_ms)})

    async def test(self, request: web.Request) -> web.Response:
        """Answer `POST /webhooks/{id}/test`: one event for this webhook alone."""
        endpoint_id, now_ms = _id(request), self._clock.now_ms()
        number, webhook_id = await self._store.write(lambda connection: _add_test(connection, endpoint_id, now_ms))
        self._webhooks.feeder.reload(number)
        return _json({"success": True, "deliveryId": webhook_id}, 202)

    async def replay(self, request: web.Request) -> web.Response:
        """Answer `POST /webhooks/{id}/replay`: the events of a span again, `to` excluded, by default now."""
        endpoint_id, now_ms = _id(request), self._clock.now_ms()
        body = {name: str(value) for name, value in (await _body(request)).items() if value is not None}
        span = read_span(body)
        if span.from_ms is None:
            raise InvalidQueryError("from: give the time from which events are sent again")
        from_ms, to_ms = span.from_ms, now_ms + 1 if span.to_ms is None else span.to_ms

        def work(connection: Database) -> tuple[int, int]:
            row = endpoints.find(connection, endpoint_id)
            return views.add_replay(connection, row, from_ms, to_ms, now_ms)

        replay, events = await self._store.write(work)
        self._webhooks.feeder.wake()
        return _json({"success": True, "replayId": str(replay), "events": events}, 202)

    async def deliveries(self, request: web.Request) -> web.Response:
        """Answer `GET /webhooks/{id}/deliveries`: the latest first."""
        endpoint_id = _id(request)
        wanted, page = views.read_delivery_filter(request.query)
        found, following = await self._store.read(
            lambda connection: views.list_deliveries(connection, endpoints.find(connection, endpoint_id), wanted, page)
        )
        return _json({"success": True, "deliveries": found, "nextCursor": following})

    async def _changed(
        self, endpoint_id: str, more: Mapping[str, Any] | None = None, status: int = 200
    ) -> web.Response:
        """Make a change known and answer with the webhook."""
        self._webhooks.sync.wake()
        shown = await self._show(endpoint_id)
        return _json({"success": True, "webhook": shown, **(more or {})}, status)

    async def _show(self, endpoint_id: str) -> dict[str, Any]:
        return await self._store.read(
            lambda connection: views.show(connection, endpoints.find(connection, endpoint_id))
        )


def _add_test(connection: Database, endpoint_id: str, now_ms: int) -> tuple[int, str]:
    """Add a test event and its delivery; return the endpoint's number and the delivery's id."""
    row = endpoints.find(connection, endpoint_id)
    event = endpoints.journal_test(connection, row, now_ms)
    journaled = Journaled._make(connection.execute(_JOURNALED, (event,)).fetchone())
    values = (row.number, row.next_n, journaled.id, journaled.type, pack_events([journaled]), _TEST_BYTES, now_ms)
    connection.execute(_ADD_TEST, values)
    connection.execute("UPDATE webhook_endpoints SET next_n = next_n + 1 WHERE number = ?", (row.number,))
    return row.number, journaled.id


def _id(request: web.Request) -> str:
    return request.match_info["id"]


async def _body(request: web.Request) -> Mapping[str, Any]:
    """Return the JSON object of a body, {} if it is empty."""
    raw = await request.read()
    if not raw:
        return {}
    if content_type_of(request) != "application/json":
        raise InvalidQueryError("the Content-Type must be application/json")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidQueryError("the body is not valid JSON") from error
    if not isinstance(value, dict):
        raise InvalidQueryError("the body is not a JSON object")
    return value


def _json(value: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json", charset="utf-8")
