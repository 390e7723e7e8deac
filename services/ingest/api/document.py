"""The API about itself: `openapi.json`, and `/docs`, a page that shows it and needs no internet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import msgspec
from aiohttp import web

from services.ingest.call import JSON, Call, Operation
from services.ingest.openapi import make_document
from services.ingest.pages import page, read_page_file


def document_operations(others: Callable[[], Iterable[Operation]]) -> list[Operation]:
    """Return the two operations that describe themselves and the `others`."""
    own: list[Operation] = []

    @cache
    def document() -> bytes:
        return msgspec.json.encode(make_document([*others(), *own]))

    async def show_document(_call: Call) -> web.Response:
        return web.Response(body=document(), content_type=JSON, charset="utf-8")

    async def show_docs(_call: Call) -> web.Response:
        # "<" cannot end the element then, whatever a description says
        data = document().decode().replace("<", "\\u003c")
        script = read_page_file("docs.js").replace('"__DOCUMENT__"', data)
        return page("Kurir API", read_page_file("docs.html"), style=read_page_file("docs.css"), script=script)

    own += [
        Operation("GET", "/openapi.json", "document", "This document", show_document, None, rooted=True,
                  limited=False, queue=False),
        Operation("GET", "/docs", "docs", "This document as a page", show_docs, None, rooted=True,
                  limited=False, queue=False, content_types=("text/html",)),
    ]  # fmt: skip
    return own
