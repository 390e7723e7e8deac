"""The sandbox's own HTTP: show and delete messages, and set faults (only from this machine)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from itertools import islice

import msgspec
import orjson
from aiohttp import web

from services.sandbox.faults import Fault, Faults
from services.sandbox.mailbox import Kept, Mailbox
from services.sandbox.page import PAGE_POLICY, render_page
from services.sandbox.reception import SmtpListener
from shared.clock import rfc3339

_SHOWN = 200
_MOST = 100_000
_NO_SNIFFING = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class ControlApi:
    """Shows the mailbox and sets faults."""

    def __init__(self, mailbox: Mailbox, faults: Faults, listener: SmtpListener) -> None:
        self._mailbox = mailbox
        self._faults = faults
        self._listener = listener
        self._reopening: asyncio.Task[None] | None = None

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/", self._page),
            web.get("/messages", self._list),
            web.delete("/messages", self._delete),
            web.get(r"/messages/{number:\d{1,15}}/source", self._source),
            web.get("/faults", self._show_faults),
            web.put("/faults", self._set_fault),
            web.delete("/faults", self._clear_faults),
        ]

    async def close(self) -> None:
        """Cancel the pending end of a `refuse` fault."""
        if self._reopening is not None:
            self._reopening.cancel()

    async def _page(self, _request: web.Request) -> web.Response:
        page = render_page(islice(self._mailbox.newest(), _SHOWN), self._mailbox.count)
        headers = {"Content-Security-Policy": PAGE_POLICY, **_NO_SNIFFING}
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def _list(self, request: web.Request) -> web.Response:
        """Answer with the last messages, newest first, by `channel`, `to` (a substring), `jobId` and `limit` (50)."""
        limit = request.query.get("limit", "50")
        if not (limit.isdecimal() and limit.isascii() and 0 < int(limit) <= _MOST):
            raise web.HTTPBadRequest(text=f"limit must be from 1 to {_MOST}")
        found = [_shown(kept) for kept in islice(self._matching(request), int(limit))]
        return _json({"success": True, "count": self._mailbox.count, "messages": found})

    def _matching(self, request: web.Request) -> Iterator[Kept]:
        query = request.query
        channel, job_id = query.get("channel"), query.get("jobId")
        # an unescaped plus arrives as a space; phone numbers are stored without a plus
        to = query.get("to", "").lower().strip().removeprefix("+").replace(" ", "+")
        for kept in self._mailbox.newest():
            message = kept.message
            if channel in {None, message.channel} and to in message.to.lower() and job_id in {None, message.job_id}:
                yield kept

    async def _delete(self, _request: web.Request) -> web.Response:
        self._mailbox.clear()
        return _json({"success": True})

    async def _source(self, request: web.Request) -> web.Response:
        kept = self._mailbox.find(int(request.match_info["number"]))
        if kept is None:
            raise web.HTTPNotFound(text="this message is no longer kept")
        text = kept.message.source.decode("utf-8", "replace")
        headers = {"Content-Security-Policy": "sandbox; default-src 'none'", **_NO_SNIFFING}
        return web.Response(text=text, content_type="text/plain", charset="utf-8", headers=headers)

    async def _show_faults(self, _request: web.Request) -> web.Response:
        return _json({"success": True, "faults": self._faults.now()})

    async def _set_fault(self, request: web.Request) -> web.Response:
        _demand_loopback(request)
        try:
            fault = msgspec.json.decode(await request.read(), type=Fault)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        problem = fault.problem()
        if problem:
            raise web.HTTPBadRequest(text=problem)
        await self._end_refusing(fault)
        self._faults.set(fault)
        if fault.answer == "refuse":
            await self._listener.close()
            if fault.seconds is not None:
                self._reopening = asyncio.create_task(self._reopen_after(fault.seconds))
        return _json({"success": True, "faults": self._faults.now()})

    async def _clear_faults(self, request: web.Request) -> web.Response:
        _demand_loopback(request)
        self._faults.clear()
        await self._end_refusing(None)
        return _json({"success": True, "faults": []})

    async def _end_refusing(self, fault: Fault | None) -> None:
        """Listen again, unless the new fault is for the other channel."""
        if fault is not None and fault.channel != "email":
            return
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        await self._listener.reopen()

    async def _reopen_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listener.reopen()


def _demand_loopback(request: web.Request) -> None:
    """Refuse other machines; a web page here cannot send PUT or DELETE across origins without a preflight."""
    try:
        local = ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        local = False
    if not local:
        raise web.HTTPForbidden(text="faults can be set only from this machine")


def _shown(kept: Kept) -> dict[str, object]:
    message = kept.message
    return {
        "number": kept.number,
        "acceptedAt": rfc3339(kept.at_ms),
        "channel": message.channel,
        "from": message.sender,
        "to": message.to,
        "jobId": message.job_id,
        "messageId": message.message_id,
        "subject": message.subject,
    }


def _json(body: dict[str, object]) -> web.Response:
    return web.Response(body=orjson.dumps(body, default=msgspec.to_builtins), content_type="application/json")
