"""The pages that people see in a browser: whole in one answer, without a single request elsewhere.

Style and script stand in the page itself; the Content-Security-Policy names them by their hashes and allows nothing
else, so that whatever a page might be made to show cannot run.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent


def read_page_file(name: str) -> str:
    """Read a file that belongs to the pages."""
    return (_FOLDER / name).read_text("utf-8")


def page(title: str, body: str, *, style: str, script: str = "", status: int = 200) -> web.Response:
    """Make an HTML response; `title` and `body` are html already."""
    scripted = f"<script>{script}</script>" if script else ""
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body>{body}{scripted}</body></html>"
    )
    sources = [
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'" if script else "script-src 'none'",
        "connect-src 'none'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
    headers = {"Content-Security-Policy": "; ".join(sources)}
    return web.Response(text=html, status=status, content_type="text/html", charset="utf-8", headers=headers)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
