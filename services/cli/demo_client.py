"""The demo as a client: posts the file, follows the blast, reads back the log. It speaks HTTP and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

import aiohttp

from shared.errors import KurirError

TEMPLATE_ID = "invoice_reminder"
_PAUSE_S = 0.1
_PATIENCE_S = 60.0
_PAGE = 1000


class DemoError(KurirError):
    """The demo cannot go on; the message says why."""


class DemoClient:
    """Calls of the public API; those that fail because a service is just being restarted are tried again."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def post_csv(self, content: bytes) -> str:
        """Post a CSV of recipients as one blast through both channels and return its id.

        The idempotency key makes it safe to post again when the answer was lost.
        """
        headers = {"Content-Type": "text/csv", "Idempotency-Key": secrets.token_hex(16)}
        query = {"templateId": TEMPLATE_ID, "channels": "email,whatsapp"}
        answer = await self._call("POST", "/api/messages/blast", params=query, headers=headers, data=content)
        return str(answer["blastId"])

    async def blast(self, blast_id: str) -> dict[str, Any]:
        """Return the blast as it stands."""
        answer = await self._call("GET", f"/api/blasts/{blast_id}")
        blast: dict[str, Any] = answer["blast"]
        return blast

    async def rows(self, blast_id: str) -> list[dict[str, Any]]:
        """Return every row of the message log that belongs to the blast."""
        rows: list[dict[str, Any]] = []
        query = {"blast": blast_id, "limit": str(_PAGE)}
        while True:
            answer = await self._call("GET", "/api/logs/messages", params=query)
            rows += answer["logs"]
            if not answer["nextCursor"]:
                return rows
            query["cursor"] = answer["nextCursor"]

    async def _call(self, method: str, path: str, **request: Any) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_S
        while True:
            reason = "no answer"
            try:
                async with self._http.request(method, self._url + path, **request) as response:
                    if response.status < 400:
                        answer: Mapping[str, Any] = await response.json()
                        return answer
                    reason = f"{response.status}: {(await response.text())[:1000]}"
                    if response.status not in {409, 429, 502, 503}:
                        raise DemoError(f"{method} {path} answered {reason}")
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
            if loop.time() > deadline:
                raise DemoError(f"{method} {path} did not succeed within {_PATIENCE_S:g} s: {reason}")
            await asyncio.sleep(_PAUSE_S)
