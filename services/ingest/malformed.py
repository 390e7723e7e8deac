"""Malformed requests: what is not HTTP never reaches a handler; it is answered in the API's form all the same.

The answers quote nothing of the request: what cannot be parsed may hold a key.
"""

from __future__ import annotations

import secrets

from aiohttp import web

from services.ingest.answers import error_answer
from services.ingest.entrance import POLICY, SECURITY_HEADERS
from services.ingest.metrics import IngestMetrics
from services.ingest.problems import ApiError

# words of aiohttp's parser, and what they mean to the client
_CAUSES = (
    ("https traffic", "this port speaks HTTP, the request came as HTTPS"),
    ("content-length", "its Content-Length is not one whole number, or stands beside Transfer-Encoding"),
    ("transfer-encoding", "its Transfer-Encoding is not chunked"),
    ("chunk", "the chunks of its body are broken"),
    ("'host'", "it has no Host header"),
    ("too many headers", "it has too many headers"),
    ("more than", "its first line or a header is longer than 8,190 bytes"),
    ("method", "its method cannot be read"),
    ("status line", "its first line cannot be read"),
    ("version", "its HTTP version cannot be read"),
    ("url", "its URL cannot be read"),
    ("header", "a header is malformed"),
)


def malformed_response(error: BaseException | None, metrics: IngestMetrics) -> web.Response:
    """Make the answer to a request that aiohttp could not parse, and count it."""
    metrics.request("", "", 400, 0.0)
    response = error_answer(ApiError("MALFORMED_REQUEST", f"the HTTP request cannot be read: {_cause(error)}"))
    response.headers.update(SECURITY_HEADERS | {"Content-Security-Policy": POLICY})
    return _identified(response)


def _identified(response: web.Response) -> web.Response:
    response.headers["X-Request-Id"] = secrets.token_hex(8)
    response.force_close()
    return response


def _cause(error: BaseException | None) -> str:
    said = str(getattr(error, "message", "")).partition("\n")[0].lower()
    return next((cause for words, cause in _CAUSES if words in said), "it is malformed")


async def meet_expectation(request: web.Request) -> web.Response | None:
    """Answer the Expect header: 100-continue is met, anything else refused (RFC 9110, 10.1.1)."""
    if request.headers.get("Expect", "").strip().lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # this was not the beginning of the answer
        request.writer.output_size = 0
        return None
    return _identified(error_answer(ApiError("MALFORMED_REQUEST", "the only expectation that is met is 100-continue")))
