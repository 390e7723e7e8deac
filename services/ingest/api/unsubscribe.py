"""Unsubscribing: a page with a button for recipients, and one click for mail programs (RFC 8058).

GET changes nothing: link scanners and previews follow links, and must not unsubscribe the recipient.
"""

from __future__ import annotations

from html import escape

from aiohttp import web

from services.ingest.http.bodies import READING_ERRORS, read_whole
from services.ingest.http.errors import ApiError
from services.ingest.http.operation import Body, Call, Operation
from services.ingest.http.pages import page, read_page_file
from shared.channels import CHANNELS
from shared.suppressions import UNSUBSCRIBED, Suppression
from shared.unsubscribe import read_token

_LONGEST_TOKEN = 2000
_MAX_BODY = 4096
_FORM = "application/x-www-form-urlencoded"


async def _show(call: Call) -> web.Response:
    token, target = _target(call)
    if target is None:
        return _bad_link(call)
    _, address = target
    return _page(
        "Unsubscribe",
        f"<p>Stop newsletters and offers to <strong>{escape(address)}</strong>?</p>"
        f'<form method="post" action="{escape(token)}"><button>Unsubscribe</button></form>'
        "<p class=small>Messages about your orders and your account still arrive.</p>",
    )


async def _unsubscribe(call: Call) -> web.Response:
    await read_whole(call, _MAX_BODY)
    _, target = _target(call)
    if target is None:
        return _bad_link(call)
    channel, address = target
    now_ms = call.gateway.clock.now_ms()
    wanted = Suppression("marketing", "unsubscribe", UNSUBSCRIBED, now_ms, words="the link in a message")
    await call.gateway.queue.suppressions.add(channel, address, wanted)
    return _page("Unsubscribed", f"<p><strong>{escape(address)}</strong> gets no more newsletters and offers.</p>")


def _target(call: Call) -> tuple[str, tuple[str, str] | None]:
    """Return the link's token, and the channel and address it was signed for, None if its signature is invalid."""
    token, secret = call.request.match_info["token"], call.gateway.settings.mail.secret
    if not secret or len(token) > _LONGEST_TOKEN:
        return token, None
    target = read_token(secret, token)
    return token, target if target is not None and target[0] in CHANNELS else None


def _bad_link(call: Call) -> web.Response:
    if "text/html" not in call.request.headers.get("Accept", ""):
        raise ApiError("INVALID_TOKEN")
    return _page("This link does not work", "<p>It may be incomplete. Please open it again from the message.</p>", 400)


def _page(title: str, body: str, status: int = 200) -> web.Response:
    return page(title, f"<main><h1>{title}</h1>{body}</main>", style=read_page_file("plain.css"), status=status)


_HTML = ("text/html",)

OPERATIONS = [
    Operation("GET", "/u/{token}", "showUnsubscribe", "Show the page of an unsubscribe link; changes nothing",
              _show, None, rooted=True, queue=False, errors=("INVALID_TOKEN",), content_types=_HTML, open_query=True),
    Operation("POST", "/u/{token}", "unsubscribe", "Unsubscribe with one click (RFC 8058); safe to repeat",
              _unsubscribe, None, rooted=True, content_types=_HTML, open_query=True,
              errors=("INVALID_TOKEN", *READING_ERRORS),
              body=Body({_FORM: {"type": "object", "properties": {"List-Unsubscribe": {"type": "string"}}}},
                        required=False)),
]  # fmt: skip
