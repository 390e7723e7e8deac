"""The console: its files, and signing in to it with an API key."""

from __future__ import annotations

from http.cookies import Morsel
from importlib.metadata import version
from typing import Literal

from aiohttp import web
from msgspec import UNSET, UnsetType

from services.ingest.api_keys import SCOPES, ApiKey, Grant
from services.ingest.console.files import ConsoleFile
from services.ingest.http.bodies import BODY_ERRORS, read_struct, refuse_body
from services.ingest.http.client_address import refusal
from services.ingest.http.errors import ApiError
from services.ingest.http.operation import JSON, SESSION_COOKIE, Body, Call, Operation
from services.ingest.http.origins import is_foreign
from services.ingest.http.requests import SignInRequest
from services.ingest.http.responses import Answer, ChangeAnswer, json_response
from services.ingest.storage.sessions import Session
from shared.clock import rfc3339

_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_KEEP = "public, max-age=31536000, immutable"


class SessionAnswer(Answer, kw_only=True, frozen=True):
    """Who is signed in. `required` is false where no API key is configured: then nobody signs in.

    `scopes` are what the key may do; all of them where no key is configured.
    """

    signed_in: bool
    required: bool
    version: str
    key: str | UnsetType = UNSET
    scopes: list[Grant]
    ends_at: str | UnsetType = UNSET


async def _show_page(call: Call) -> web.Response:
    return _file(call, call.gateway.console.index, {"Content-Security-Policy": _POLICY})


async def _show_frame(call: Call) -> web.Response:
    """Serve the document that shows the HTML of a mail: no origin, no network, no script but its own."""
    policy = (
        f"sandbox allow-scripts; default-src 'none'; script-src {call.gateway.console.frame_script};"
        " style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
    )
    return _file(call, call.gateway.console.frame, {"Content-Security-Policy": policy, "X-Frame-Options": "SAMEORIGIN"})


async def _redirect(_call: Call) -> web.Response:
    return web.Response(status=308, headers={"Location": "/console/"}, content_type="text/html", charset="utf-8")


async def _show_file(call: Call) -> web.Response:
    console, wanted = call.gateway.console, call.request.match_info
    found = console.files.get(wanted["file"])
    if found is None or wanted["version"] != console.version:
        raise ApiError("NOT_FOUND")
    return _file(call, found, {"Cache-Control": _KEEP, "Content-Security-Policy": _POLICY})


def _file(call: Call, found: ConsoleFile, headers: dict[str, str]) -> web.Response:
    compressed = "gzip" in call.request.headers.get("Accept-Encoding", "")
    if compressed:
        headers["Content-Encoding"] = "gzip"
    body = found.gzipped if compressed else found.plain
    headers["Vary"] = "Accept-Encoding"
    return web.Response(body=body, headers=headers, content_type=found.content_type, charset="utf-8")


async def _show_session(call: Call) -> web.Response:
    await refuse_body(call)
    if not call.gateway.keyring:
        _refuse_strangers(call)
        return json_response(_open_to_all())
    session = await _current(call)
    return json_response(_answer(session.key, session) if session is not None else _answer(None, None))


async def _sign_in(call: Call) -> web.Response:
    _refuse_other_pages(call, proof=False)
    request = await read_struct(call, SignInRequest)
    if not call.gateway.keyring:
        _refuse_strangers(call)
        return json_response(_open_to_all())
    key = call.gateway.keyring.find(request.api_key.strip())
    if key is None:
        raise ApiError("UNAUTHORIZED", "there is no API key with this text")
    if call.cookie:
        await call.gateway.records.sessions.end(call.cookie)
    session = await call.gateway.records.sessions.begin(key)
    response = json_response(_answer(key, session))
    response.headers["Set-Cookie"] = _cookie(call, session.token)
    return response


async def _sign_out(call: Call) -> web.Response:
    _refuse_other_pages(call, proof=True)
    await refuse_body(call)
    if call.cookie:
        await call.gateway.records.sessions.end(call.cookie)
    response = json_response(ChangeAnswer(message="you are signed out"))
    response.headers["Set-Cookie"] = _cookie(call, "")
    return response


async def _current(call: Call) -> Session | None:
    return await call.gateway.records.find_session(call.cookie) if call.cookie else None


def _refuse_strangers(call: Call) -> None:
    reason = refusal(call.request.remote or "", call.request.headers)
    if reason:
        raise ApiError("LOOPBACK_ONLY", reason)


def _refuse_other_pages(call: Call, *, proof: bool) -> None:
    """Raise 403 for a request that another page may have sent; with `proof`, unless it is certainly the console's."""
    headers = call.request.headers
    sent_by_browser = "Sec-Fetch-Site" in headers or "Origin" in headers
    if (proof or sent_by_browser) and is_foreign(call.request.method, headers, call.gateway.settings.mail.public_url):
        raise ApiError("FOREIGN_PAGE")


def _cookie(call: Call, token: str) -> str:
    """Return the cookie's header; an empty token deletes it. It ends with the browser, or with the session."""
    cookie: Morsel[str] = Morsel()
    cookie.set(SESSION_COOKIE, token, token)
    cookie["path"] = "/"
    cookie["httponly"] = True
    cookie["samesite"] = "Strict"
    # a page that was loaded by https says so, also behind a proxy
    if call.request.headers.get("Origin", "").startswith("https:") or call.request.secure:
        cookie["secure"] = True
    if not token:
        cookie["max-age"] = 0
    return cookie.OutputString()


def _answer(key: ApiKey | None, session: Session | None) -> SessionAnswer:
    if key is None or session is None:
        return SessionAnswer(signed_in=False, required=True, version=version("kurir"), scopes=[])
    return SessionAnswer(
        signed_in=True,
        required=True,
        version=version("kurir"),
        key=key.name,
        scopes=key.grants(),
        ends_at=rfc3339(session.ends_ms),
    )


def _open_to_all() -> SessionAnswer:
    return SessionAnswer(signed_in=True, required=False, version=version("kurir"), scopes=list(SCOPES))


_SESSION = "/console/session"
_HTML: Literal["text/html"] = "text/html"

OPERATIONS = [
    Operation("GET", "/console", "consoleRoot", "Redirect to the console", _redirect, None, None, (308,), rooted=True,
              limited=False, queue=False, logged=False, content_types=(_HTML,)),
    Operation("GET", _SESSION, "showSession", "Show who is signed in to the console", _show_session, None,
              SessionAnswer, rooted=True, queue=False, logged=False,
              errors=("LOOPBACK_ONLY", "QUEUE_UNAVAILABLE", *BODY_ERRORS)),
    Operation("POST", _SESSION, "signIn", "Sign in to the console with an API key; sets a cookie for 12 hours",
              _sign_in, None, SessionAnswer, rooted=True, guarded=True, body=Body({JSON: SignInRequest}),
              errors=("UNAUTHORIZED", "FOREIGN_PAGE", "LOOPBACK_ONLY", "VALIDATION_FAILED", *BODY_ERRORS)),
    Operation("DELETE", _SESSION, "signOut", "Sign out of the console; safe to repeat", _sign_out, None, ChangeAnswer,
              rooted=True, errors=("FOREIGN_PAGE", *BODY_ERRORS)),
    Operation("GET", "/console/frame", "consoleFrame", "Return the document in which the console shows a mail",
              _show_frame, None, rooted=True, limited=False, queue=False, logged=False, content_types=(_HTML,)),
    Operation("GET", "/console/static/{version}/{file}", "consoleFile", "Return a file of the console", _show_file,
              None, rooted=True, limited=False, queue=False, logged=False, wide="file", errors=("NOT_FOUND",),
              content_types=("text/javascript", "text/css", "image/svg+xml")),
    Operation("GET", "/console/{page}", "consolePage", "Return the console: one page, whose state is in its URL",
              _show_page, None, rooted=True, limited=False, queue=False, logged=False, wide="page", open_query=True,
              content_types=(_HTML,)),
]  # fmt: skip
