"""The pages for browsers: each complete in one answer, without further requests.

Style and script are inline. The Content-Security-Policy allows them by their hashes and nothing else, so that injected
content cannot run.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent


def read_page_file(name: str) -> str:
    """Read one of the pages' files."""
    return (_FOLDER / name).read_text("utf-8")


def page(title: str, body: str, *, style: str, script: str = "", status: int = 200) -> web.Response:
    """Make an HTML response; `title` and `body` must already be escaped HTML."""
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
