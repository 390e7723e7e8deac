"""The sandbox's page: a plain table of the last messages, without scripts; all outside text is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from services.sandbox.mailbox import Kept
from shared.clock import rfc3339

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: start; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td { overflow-wrap: anywhere; }
td:nth-child(1), td:nth-child(2), td:last-child { white-space: nowrap; }
small { color: #666; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"


def render_page(messages: Iterable[Kept], count: int) -> str:
    """Return the page; `count` is the number of messages accepted in total."""
    rows = "".join(_row(kept) for kept in messages)
    table = (
        f"<table><tr><th>accepted<th>channel<th>to<th>subject or template<th>job<th></tr>{rows}</table>"
        if rows
        else "<p>No messages yet.</p>"
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Kurir sandbox</title><style>{_STYLE}</style>"
        "<h1>Kurir sandbox</h1>"
        f"<p>Messages accepted: {count}. The sandbox delivers nothing to anyone. "
        '<a href="/messages">This list as JSON</a></p>'
        f"{table}</html>"
    )


def _row(kept: Kept) -> str:
    message = kept.message
    cells = (rfc3339(kept.at_ms), message.channel, message.to, message.subject, message.job_id)
    written = "".join(f'<td dir="auto">{escape(cell)}</td>' for cell in cells)
    return f'<tr>{written}<td><a href="/messages/{kept.number}/source">source</a></td></tr>'
