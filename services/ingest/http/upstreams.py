"""Upstreams: the services that ingest calls over HTTP, the logger for history and the senders for providers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from services.ingest.http.errors import ApiError
from shared.logs import get_logger
from shared.web import credentials

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=30.0)
_PASSED_ON = ("Content-Type", "Content-Disposition", "Retry-After", "ETag", "Last-Modified")
_CHUNK = 65536
MASKED = "masked=1"
"""Asks an upstream to treat the caller as one that may not see recipients."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class UpstreamAccess:
    """What every call to an upstream needs: one HTTP client, and the secret that authenticates ingest."""

    session: aiohttp.ClientSession
    secret: str


class Upstream:
    """One service; clients get the error `code` while it cannot be reached."""

    def __init__(self, access: UpstreamAccess, url: str, code: str) -> None:
        self._session = access.session
        self._credentials = credentials(access.secret)
        self._url = url
        self._code = code
        self._name = "the logger" if code == "LOGGER_UNAVAILABLE" else "the sender of this channel"

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Call it and return the status and JSON object of its answer; 401, 5xx and no answer raise ApiError."""
        data = orjson.dumps(body) if body is not None else None
        headers = self._credentials | ({"Content-Type": "application/json"} if data is not None else {})
        try:
            async with self._session.request(method, self._url + path, data=data, headers=headers) as response:
                status, raw = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(self._code, headers={"Retry-After": "2"}) from error
        self._check(status)
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ApiError(self._code, f"{self._name} did not answer with JSON; try again") from error
        return status, value if isinstance(value, dict) else {"value": value}

    async def forward(self, request: web.Request, path: str, *, masked: bool = False) -> web.StreamResponse:
        """Forward a GET with its query, and stream back an answer of any length.

        With `masked`, the upstream masks recipients in exports and searches; JSON is returned whole, for its masking.
        """
        query = "&".join(one for one in (request.rel_url.raw_query_string, MASKED if masked else "") if one)
        url = f"{self._url}{path}" + (f"?{query}" if query else "")
        try:
            upstream = await self._session.get(URL(url, encoded=True), headers=self._credentials)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(self._code, headers={"Retry-After": "2"}) from error
        async with upstream:
            self._check(upstream.status)
            headers = {name: upstream.headers[name] for name in _PASSED_ON if name in upstream.headers}
            response = web.StreamResponse(status=upstream.status, headers=headers)
            if masked and upstream.content_type == "application/json":
                return web.Response(body=await upstream.read(), status=response.status, headers=response.headers)
            return await self._stream(upstream, response, request)

    def _check(self, status: int) -> None:
        """Raise ApiError for an answer that says nothing about the client's request."""
        if status == 401:
            log.error(
                "upstream refused the request; KURIR_INTERNAL_SECRET must be the same in both services", url=self._url
            )
        if status == 401 or status >= 500:
            action = "check KURIR_INTERNAL_SECRET" if status == 401 else "try again"
            raise ApiError(self._code, f"{self._name} answered {status}; {action}", headers={"Retry-After": "2"})

    async def _stream(
        self, upstream: aiohttp.ClientResponse, response: web.StreamResponse, request: web.Request
    ) -> web.StreamResponse:
        if upstream.content_length is not None and upstream.content_length <= _CHUNK:
            raw = await upstream.read()
            return web.Response(body=raw, status=response.status, headers=response.headers)
        await response.prepare(request)
        async for chunk in upstream.content.iter_chunked(_CHUNK):
            await response.write(chunk)
        await response.write_eof()
        return response


def open_session() -> aiohttp.ClientSession:
    """Open the HTTP client that all upstreams share."""
    connector = aiohttp.TCPConnector(limit=100, keepalive_timeout=15)
    return aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector, auto_decompress=False)
