"""Faults over HTTP: show, set and end them (set only from this machine)."""

from __future__ import annotations

import asyncio
import ipaddress

import msgspec
import orjson
from aiohttp import web

from services.sandbox.faults import Fault, Faults
from services.sandbox.reception import SmtpListener


class FaultApi:
    """Sets faults, and closes and opens the SMTP port for a `refuse`."""

    def __init__(self, faults: Faults, listener: SmtpListener) -> None:
        self._faults = faults
        self._listener = listener
        self._reopening: asyncio.Task[None] | None = None

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/faults", self._show_faults),
            web.put("/faults", self._set_fault),
            web.delete("/faults", self._clear_faults),
        ]

    async def close(self) -> None:
        """Cancel the pending end of a `refuse` fault."""
        if self._reopening is not None:
            self._reopening.cancel()

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


def _json(body: dict[str, object]) -> web.Response:
    return web.Response(body=orjson.dumps(body, default=msgspec.to_builtins), content_type="application/json")
