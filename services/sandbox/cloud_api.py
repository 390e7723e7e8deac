"""The stand-in for Meta's Cloud API and for Qiscus, which passes the same messages on.

Qiscus takes them at `/whatsapp/v1/{app}/{channel}/messages`, Meta at `/{version}/{number}/messages`. Both answer as the
Cloud API does. What becomes of an accepted message is reported later, by webhook.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson
from aiohttp import web

from services.sandbox.faults import Fault, Faults
from services.sandbox.mailbox import Mailbox, Message
from services.sandbox.metrics import SandboxMetrics
from services.sandbox.outcomes import WHATSAPP_ERRORS, whatsapp_error_of
from services.sandbox.reporter import Reporter
from services.sandbox.settings import SandboxSettings
from services.sandbox.statuses import LATE_ERRORS, Accepted
from shared.logs import get_logger

_NOT_JSON = 100
_LONGEST_CALLBACK_DATA = 512


@dataclass(frozen=True, slots=True)
class _Refusal(Exception):  # noqa: N818 -- an answer, not a failure
    """An error answer of the provider."""

    status: int
    code: int
    details: str
    retry_after: str = ""
    subcode: int = 0


class CloudApi:
    """Accepts WhatsApp messages as Qiscus does and as Meta does."""

    def __init__(
        self, settings: SandboxSettings, mailbox: Mailbox, faults: Faults, metrics: SandboxMetrics, reporter: Reporter
    ) -> None:
        self._settings = settings
        self._mailbox = mailbox
        self._faults = faults
        self._metrics = metrics
        self._reporter = reporter

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of both providers."""
        return [
            web.post("/whatsapp/v1/{app}/{channel}/messages", self._take_for_qiscus),
            web.post(r"/{version:v\d+\.\d+}/{number}/messages", self._take_for_meta),
            web.get(r"/{version:v\d+\.\d+}/{number}", self._describe_number),
        ]

    async def _take_for_qiscus(self, request: web.Request) -> web.Response:
        return await self._take(request, "qiscus")

    async def _take_for_meta(self, request: web.Request) -> web.Response:
        return await self._take(request, "meta")

    async def _take(self, request: web.Request, provider: str) -> web.Response:
        raw = await request.read()
        try:
            answer = await self._answer(request, provider, raw)
        except _Refusal as refusal:
            self._metrics.message("whatsapp", "refused")
            return _error_response(refusal)
        self._metrics.message("whatsapp", "accepted")
        return answer

    async def _describe_number(self, request: web.Request) -> web.Response:
        """Answer what Meta says about a sending number."""
        try:
            self._authenticate_meta(request)
        except _Refusal as refusal:
            return _error_response(refusal)
        number = {"display_phone_number": "+1 555-0100", "verified_name": "Kurir sandbox", "quality_rating": "GREEN"}
        return _json(200, {**number, "status": "CONNECTED", "id": self._settings.phone_number_id})

    async def _answer(self, request: web.Request, provider: str, raw: bytes) -> web.Response:
        if provider == "meta":
            self._authenticate_meta(request)
        else:
            self._authenticate_qiscus(request)
        body = _read_body(raw, provider)
        to = body["to"]
        fault = self._faults.take("whatsapp")
        if fault is not None and fault.answer in {"hang", "drop"} and not fault.record:
            await _vanish(request, fault)
        if fault is not None and fault.answer not in {"slow", "hang", "drop"}:
            raise _refusal_of(fault)
        code = whatsapp_error_of(to)
        if code and not (code in LATE_ERRORS and self._reporter.has_hooks):
            raise _refusal(code)
        message_id = f"wamid.{secrets.token_urlsafe(30)}"
        self._accept(body, message_id, raw)
        self._reporter.accepted_whatsapp(provider, Accepted(message_id, _job_id(body), to))
        if fault is not None and fault.answer in {"hang", "drop"}:
            await _vanish(request, fault)
        delay_s = fault.delay_ms / 1000 if fault else self._settings.latency_s
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        contacts = [{"input": to, "wa_id": to}]
        return _json(200, {"messaging_product": "whatsapp", "contacts": contacts, "messages": [{"id": message_id}]})

    def _authenticate_qiscus(self, request: web.Request) -> None:
        settings = self._settings
        path = (request.match_info["app"], request.match_info["channel"])
        given = (request.headers.get("Qiscus-App-Id", ""), request.headers.get("Qiscus-Secret-Key", ""))
        wanted = (settings.app_code, settings.secret_key)
        if not all(_same(one, two) for one, two in zip(given, wanted, strict=True)):
            raise _refusal(0, "Qiscus-App-Id or Qiscus-Secret-Key is wrong")
        if path != (settings.app_code, settings.channel_id):
            raise _Refusal(404, 100, "no such channel" if path[0] == settings.app_code else "no such app")

    def _authenticate_meta(self, request: web.Request) -> None:
        if not _same(request.headers.get("Authorization", ""), f"Bearer {self._settings.access_token}"):
            raise _refusal(190, "Invalid OAuth access token")
        number = request.match_info["number"]
        if number != self._settings.phone_number_id:
            raise _Refusal(400, 100, f"Unsupported request. Object with ID '{number}' does not exist", subcode=33)

    def _accept(self, body: dict[str, Any], message_id: str, raw: bytes) -> None:
        name = body["template"]["name"]
        message = Message("whatsapp", body["to"], _job_id(body), message_id, name, source=raw)
        try:
            self._mailbox.accept([message])
        except OSError as error:
            get_logger().error("delivery_not_written", reason=str(error))
            raise _refusal(131016) from error


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _job_id(body: dict[str, Any]) -> str:
    """Return the job that a message names, "" for none; every status repeats it."""
    data = body.get("biz_opaque_callback_data", "")
    return data if isinstance(data, str) else ""


def _read_body(raw: bytes, provider: str) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _refusal(_NOT_JSON, "the body is not valid JSON") from error
    if provider == "meta" and not (isinstance(body, dict) and body.get("messaging_product") == "whatsapp"):
        raise _refusal(_NOT_JSON, "The parameter messaging_product is required.")
    template = body.get("template") if isinstance(body, dict) else None
    if not isinstance(template, dict) or body.get("type") != "template":
        raise _refusal(_NOT_JSON, "type must be template, and template must be an object")
    to, name, language = body.get("to"), template.get("name"), template.get("language")
    if not isinstance(to, str) or not (to.isdecimal() and to.isascii()):
        raise _refusal(131009, "to must be digits")
    if not isinstance(name, str) or not isinstance(language, dict) or not language.get("code"):
        raise _refusal(131008, "template needs name and language.code")
    if len(_job_id(body)) > _LONGEST_CALLBACK_DATA:
        raise _refusal(131009, f"biz_opaque_callback_data has more than {_LONGEST_CALLBACK_DATA} characters")
    return dict(body)


def _refusal(code: int, details: str = "") -> _Refusal:
    status, words = WHATSAPP_ERRORS[code]
    return _Refusal(status, code, details or words)


def _refusal_of(fault: Fault) -> _Refusal:
    if fault.answer.startswith("http "):
        return _Refusal(int(fault.answer[5:]), -1, "this answer was requested by a fault", fault.retry_after)
    status, words = WHATSAPP_ERRORS[int(fault.answer)]
    return _Refusal(status, int(fault.answer), words, fault.retry_after)


async def _vanish(request: web.Request, fault: Fault) -> NoReturn:
    """Send no answer: close the connection, or wait until the client closes it."""
    if fault.answer == "drop" and request.transport is not None:
        request.transport.abort()
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 -- no event to wait for
        await asyncio.sleep(0.1)
    raise web.HTTPServiceUnavailable(text="the client is gone")


def _error_response(refusal: _Refusal) -> web.Response:
    headers = {"Retry-After": refusal.retry_after} if refusal.retry_after else {}
    if refusal.code < 0:
        return web.Response(status=refusal.status, text=refusal.details, headers=headers)
    error: dict[str, Any] = {
        "message": f"(#{refusal.code}) {WHATSAPP_ERRORS[refusal.code][1]}",
        "type": "OAuthException",
        "code": refusal.code,
        "error_data": {"messaging_product": "whatsapp", "details": refusal.details},
        "fbtrace_id": secrets.token_urlsafe(16),
    }
    if refusal.subcode:
        error["error_subcode"] = refusal.subcode
    return _json(refusal.status, {"error": error}, headers)


def _json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), headers=headers, content_type="application/json")
