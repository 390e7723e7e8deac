"""The client: posts blasts as a careful client does, and records what it was promised.

Every POST has an Idempotency-Key and is repeated until it is answered, so a killed ingest or a Redis that is away
only costs time. A blast is `accepted` once it was answered with 2xx.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import secrets
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import aiohttp
import orjson

from shared.jobs import TERMINAL

TEMPLATE = "invoice_reminder"
_PAGE = 1000
_RETRY_S = 0.1
_AGAIN = frozenset({409, 429, 500, 502, 503, 504})
_numbers = itertools.count()


@dataclass
class Posted:
    """A posted blast: the request, and what the answer promised.

    `cancelled_at` is when its cancellation was requested (infinite until that was answered), `expires_at` when its
    messages expire; None if not requested. Seconds since the epoch.
    """

    key: str
    channels: list[str]
    recipients: list[dict[str, Any]]
    blast_id: str = ""
    total: int = 0
    cancelled_at: float | None = None
    expires_at: float | None = None
    refused: bool = False
    answers: list[int] = field(default_factory=list)

    @cached_property
    def job_ids(self) -> set[str]:
        """Every job that the answer promised; the ids are deterministic."""
        return {
            f"{self.blast_id}:{index}:{channel}" for index in range(len(self.recipients)) for channel in self.channels
        }

    @cached_property
    def email_jobs(self) -> dict[str, str]:
        """The job of each email address; available once the blast was answered."""
        assert self.blast_id, "what was not accepted has no jobs"
        return {recipient["email"]: f"{self.blast_id}:{index}:email" for index, recipient in enumerate(self.recipients)}


def people(count: int, label: str, *, simulate: str = "", domain: str = "example.com") -> list[dict[str, Any]]:
    """Make recipients with unique addresses; `simulate` is the local part that the sandbox acts on."""
    tag = secrets.token_hex(3)
    return [
        {
            "name": f"{label} {index}",
            "email": (f"{simulate}+{tag}{index}" if simulate else f"{label}.{tag}.{index}") + f"@{domain}",
            "phone": f"+62{_phone(next(_numbers))}",
            "variables": {"order_number": f"INV-{index}", "amount": 1000, "due_date": "2026-02-01"},
        }
        for index in range(count)
    ]


def _phone(number: int) -> int:
    """Return a unique phone number whose last six digits are not an error code."""
    block, rest = divmod(number, 100_000)
    return 81_200_000_000 + block * 1_000_000 + rest


class Client:
    """Calls ingest at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.posted: list[Posted] = []
        self.job_of_phone: dict[str, str] = {}
        # a connection for each call, since a kept one may be dead after a restart of the service
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0), timeout=aiohttp.ClientTimeout(total=60)
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def post(
        self,
        recipients: list[dict[str, Any]],
        channels: tuple[str, ...] = ("email",),
        *,
        patience_s: float = 60.0,
        **fields: Any,
    ) -> Posted:
        """Post a blast until it is accepted or its time is over; record the status of every answer."""
        body = orjson.dumps({"recipients": recipients, "channels": list(channels), "templateId": TEMPLATE, **fields})
        posted = Posted(secrets.token_hex(12), list(channels), recipients)
        await self._post(posted, "/api/v1/messages/blast", body, patience_s)
        return posted

    async def post_message(self, recipient: dict[str, Any], *, patience_s: float = 60.0, keyed: bool = True) -> Posted:
        """Post a single email until it is accepted or its time is over, with an idempotency key unless not `keyed`."""
        body = orjson.dumps({"recipient": recipient, "channel": "email", "templateId": TEMPLATE})
        posted = Posted(secrets.token_hex(12) if keyed else "", ["email"], [recipient])
        await self._post(posted, "/api/v1/messages", body, patience_s)
        return posted

    async def _post(self, posted: Posted, path: str, body: bytes, patience_s: float) -> None:
        self.posted.append(posted)
        deadline = time.monotonic() + patience_s
        while not posted.blast_id:
            status, answer = await self.call("POST", path, data=io.BytesIO(body), key=posted.key)
            posted.answers.append(status)
            if status == 202:
                posted.blast_id, posted.total = answer["blastId"], answer.get("totalMessages", 1)
                self._note_phones(posted)
                break
            if answer.get("code") in {"EXPIRES_BEFORE_START", "TIME_IN_PAST"}:
                posted.refused = True
                break  # the fault outlasted the messages' time, and no part of the blast is there: not accepted
            assert status in {0, *_AGAIN}, f"{status}: {answer}"
            assert time.monotonic() < deadline, f"not accepted within {patience_s} s: {status}: {answer}"
            await asyncio.sleep(_RETRY_S)

    def _note_phones(self, posted: Posted) -> None:
        if "whatsapp" in posted.channels:
            for index, recipient in enumerate(posted.recipients):
                self.job_of_phone[recipient["phone"].lstrip("+")] = f"{posted.blast_id}:{index}:whatsapp"

    async def insist(self, method: str, path: str, patience_s: float = 60.0, **request: Any) -> int:
        """Repeat an idempotent call until the answer is not "try again later"; return the status."""
        deadline = time.monotonic() + patience_s
        while True:
            status, answer = await self.call(method, path, **request)
            if status not in {0, *_AGAIN} or status == 409:
                return status
            assert time.monotonic() < deadline, f"{method} {path}: {status}: {answer}"
            await asyncio.sleep(_RETRY_S)

    async def call(self, method: str, path: str, *, key: str = "", **request: Any) -> tuple[int, dict[str, Any]]:
        """Make one call; the status is 0 if there was no answer."""
        headers = {"Idempotency-Key": key} if key else {}
        if "data" in request:
            headers["Content-Type"] = "application/json"
        try:
            async with self._http.request(method, self.url + path, headers=headers, **request) as response:
                answer: dict[str, Any] = await response.json()
                return response.status, answer
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return 0, {"message": f"{type(error).__name__}: {error}"}

    async def get(self, path: str, patience_s: float = 60.0) -> dict[str, Any]:
        """Repeat a GET until the answer is 200."""
        deadline = time.monotonic() + patience_s
        while True:
            status, answer = await self.call("GET", path)
            if status == 200:
                return answer
            assert time.monotonic() < deadline, f"GET {path}: {status}: {answer}"
            await asyncio.sleep(_RETRY_S)

    async def blast(self, blast_id: str) -> dict[str, Any]:
        """Return a blast's current state."""
        answer: dict[str, Any] = (await self.get(f"/api/v1/blasts/{blast_id}"))["blast"]
        return answer

    async def rows(self, blast_id: str) -> list[dict[str, Any]]:
        """Return every message row of a blast."""
        rows: list[dict[str, Any]] = []
        cursor = ""
        while True:
            query = f"blast={blast_id}&limit={_PAGE}" + (f"&cursor={cursor}" if cursor else "")
            answer = await self.get(f"/api/v1/logs/messages?{query}")
            rows += answer["logs"]
            cursor = answer["nextCursor"] or ""
            if not cursor:
                return rows

    async def ended(self, posted: Posted, timeout_s: float) -> bool:
        """Wait until every job of a blast is terminal in the log; False if time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            rows = await self.rows(posted.blast_id) if await self._seems_ended(posted) else []
            if len(rows) >= posted.total and all(row["status"] in TERMINAL for row in rows):
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)

    async def _seems_ended(self, posted: Posted) -> bool:
        status, answer = await self.call("GET", f"/api/v1/blasts/{posted.blast_id}")
        if status != 200:
            return False
        channels = answer["blast"]["channels"].values()
        done = sum(channel["counts"].get(name, 0) for channel in channels for name in TERMINAL)
        return bool(done >= posted.total)
