"""The mailbox over HTTP: the page, and the JSON API that it uses, as tests do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web

from services.sandbox.mailbox import Kept, Mailbox
from services.sandbox.message_view import DetailedMessage, ListedMessage, detailed, file_name, listed
from services.sandbox.mime import Mail, read_mail, safe_html
from services.sandbox.page import FILE_POLICY, MAIL_POLICY, PAGE_POLICY, read_page
from services.sandbox.search import Wanted, search

_MOST = 100_000
_MOST_VIEWERS = 50
_LONG_BYTES = 128 * 1024
_LOOK_S = 0.5
_SIGN_OF_LIFE_S = 15.0
_KEEP = {"Cache-Control": "public, max-age=31536000, immutable"}
_NUMBER = r"/messages/{number:\d{1,15}}"


class MessageList(msgspec.Struct, frozen=True):
    """The answer of `GET /messages`: `count` messages were accepted, `messages` are the last that match."""

    count: int
    messages: list[ListedMessage]
    success: bool = True


class OneMessage(msgspec.Struct, frozen=True):
    """The answer of `GET /messages/{number}`."""

    message: DetailedMessage
    success: bool = True


class MailboxApi:
    """Serves the mailbox."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._page = read_page()
        self._closing = asyncio.Event()
        self._viewers = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/", self._show_page),
            web.get("/static/{version}/{file}", self._show_file),
            web.get("/events", self._stream),
            web.get("/messages", self._list),
            web.delete("/messages", self._clear),
            web.get(_NUMBER, self._show),
            web.delete(_NUMBER, self._delete),
            web.get(f"{_NUMBER}/source", self._source),
            web.get(f"{_NUMBER}/html", self._html),
            web.get(rf"{_NUMBER}/parts/{{part:\d{{1,6}}}}", self._part),
        ]

    def close(self) -> None:
        """End the streams, which would last as long as their viewers."""
        self._closing.set()

    async def _show_page(self, _request: web.Request) -> web.Response:
        return _text(self._page.document, "text/html", PAGE_POLICY)

    async def _show_file(self, request: web.Request) -> web.Response:
        content_type, body = self._page.files.get(request.match_info["file"], ("", b""))
        if not body or request.match_info["version"] != self._page.version:
            raise web.HTTPNotFound(text="no such file")
        headers = _headers(PAGE_POLICY) | _KEEP
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    async def _list(self, request: web.Request) -> web.Response:
        """Answer with the last messages, newest first, by `channel`, `to`, `jobId`, `q`, `before` and `limit` (50)."""
        wanted = _wanted(request.query)
        found = await asyncio.to_thread(search, list(self._mailbox.newest()), wanted)
        return _json(MessageList(self._mailbox.count, [listed(kept) for kept in found]))

    async def _clear(self, _request: web.Request) -> web.Response:
        self._mailbox.clear()
        return _json({"success": True})

    async def _show(self, request: web.Request) -> web.Response:
        kept = self._find(request)
        mail = await _mail(kept) if kept.message.channel == "email" else None
        return _json(OneMessage(detailed(kept, mail)))

    async def _delete(self, request: web.Request) -> web.Response:
        if not self._mailbox.delete(int(request.match_info["number"])):
            raise _gone()
        return _json({"success": True})

    async def _source(self, request: web.Request) -> web.Response:
        text = self._find(request).message.source.decode("utf-8", "replace")
        return _text(text, "text/plain", FILE_POLICY)

    async def _html(self, request: web.Request) -> web.Response:
        mail = await _mail(self._find(request))
        if mail.html is None:
            raise web.HTTPNotFound(text="this message has no HTML")
        return _text(safe_html(mail), "text/html", MAIL_POLICY, {"X-DNS-Prefetch-Control": "off"})

    async def _part(self, request: web.Request) -> web.Response:
        """Answer with an attachment: always as a file of bytes, which no browser opens by itself."""
        part = (await _mail(self._find(request))).part(int(request.match_info["part"]))
        if part is None:
            raise web.HTTPNotFound(text="this message has no such attachment")
        headers = _headers(FILE_POLICY) | {"Content-Disposition": file_name(part).disposition}
        return web.Response(body=part.content, content_type="application/octet-stream", headers=headers)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Send an event for each change, at most two a second, until the viewer leaves or the sandbox ends."""
        if self._viewers >= _MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_VIEWERS} pages are open already")
        self._viewers += 1
        try:
            answer = web.StreamResponse(headers=_headers(FILE_POLICY) | {"Content-Type": "text/event-stream"})
            await answer.prepare(request)
            await self._send_changes(answer)
        except ConnectionResetError:
            pass  # the viewer has left
        finally:
            self._viewers -= 1
        return answer

    async def _send_changes(self, answer: web.StreamResponse) -> None:
        loop = asyncio.get_running_loop()
        seen, sent_at = -1, loop.time()
        while not self._closing.is_set():
            if self._mailbox.changes != seen:
                seen, sent_at = self._mailbox.changes, loop.time()
                await answer.write(b"data: %d\n\n" % seen)
            elif loop.time() - sent_at > _SIGN_OF_LIFE_S:
                sent_at = loop.time()
                await answer.write(b":\n\n")
            try:
                await asyncio.wait_for(self._closing.wait(), _LOOK_S)
            except TimeoutError:
                continue

    def _find(self, request: web.Request) -> Kept:
        kept = self._mailbox.find(int(request.match_info["number"]))
        if kept is None:
            raise _gone()
        return kept


async def _mail(kept: Kept) -> Mail:
    """Read a mail; a long one in a thread, so that others are received meanwhile."""
    source = kept.message.source
    return read_mail(source) if len(source) < _LONG_BYTES else await asyncio.to_thread(read_mail, source)


def _wanted(query: Mapping[str, str]) -> Wanted:
    numbers = {"limit": 50, "before": 10**15}
    for name, most in (("limit", _MOST), ("before", 10**15)):
        given = query.get(name)
        if given is None:
            continue
        if not (given.isdecimal() and given.isascii() and len(given) < 17 and 0 < int(given) <= most):
            raise web.HTTPBadRequest(text=f"{name} must be from 1 to {most}")
        numbers[name] = int(given)
    # an unescaped plus arrives as a space; phone numbers are stored without a plus
    to = query.get("to", "").lower().strip().removeprefix("+").replace(" ", "+")
    return Wanted(query.get("channel"), query.get("jobId"), to, query.get("q", "").strip(), **numbers)


def _gone() -> web.HTTPNotFound:
    return web.HTTPNotFound(text="this message is no longer kept")


def _headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def _text(text: str, content_type: str, policy: str, more: Mapping[str, str] | None = None) -> web.Response:
    headers = _headers(policy) | dict(more or {})
    return web.Response(text=text, content_type=content_type, charset="utf-8", headers=headers)


def _json(body: object) -> web.Response:
    headers = _headers(FILE_POLICY)
    return web.Response(body=msgspec.json.encode(body), content_type="application/json", headers=headers)
