"""Load: blasts of every kind, posted one after the other during the faults; some are paused or cancelled."""

from __future__ import annotations

import asyncio
import base64
import math
import random
import time
from datetime import UTC, datetime, timedelta

from tests.faults.client import Posted, people
from tests.faults.lost_masters import LostMaster
from tests.faults.oracle import MAYBE_DELIVERED, Oracle
from tests.faults.world import World

LIMITED = "limited.example"
"""The domain of a quarter of the blasts; a world may set a limit for it."""

_PATIENCE_S = 120.0
_HEAVY_SHARE = 0.1
_RECENT_S = 5.0


class Load:
    """Posts blasts of every kind one after the other; cancels, pauses or retries some."""

    def __init__(self, world: World, oracle: Oracle, seed: int) -> None:
        self._client = world.client
        self._oracle = oracle
        self._scale = world.form.scale
        self._random = random.Random(seed)
        self.blasts: list[Posted] = []
        self._steered: dict[str, tuple[str, float]] = {}
        self._steering: dict[str, asyncio.Lock] = {}
        self.done = asyncio.Event()

    async def run(self) -> None:
        """Post until `done`."""
        async with asyncio.TaskGroup() as tasks:
            while not self.done.is_set():
                posted = await self._post()
                if posted.blast_id:
                    self.blasts.append(posted)
                    tasks.create_task(self._steer(posted))
                await asyncio.sleep(self._random.uniform(0, 2))

    async def _post(self) -> Posted:
        draw = self._random
        heavy = draw.random() < _HEAVY_SHARE
        domain = draw.choice(["example.com", "example.com", "example.com", LIMITED])
        recipients = people(draw.randrange(5, 25 if heavy else 300), "mix", domain=domain)
        for kind in ("flaky", "bounce", "greylist", "drop"):
            recipients += people(draw.choice([0, 0, 3]), "mix", simulate=kind)
        fields: dict[str, object] = {"attachments": [_file(draw)]} if heavy and draw.random() < 0.5 else {}
        for recipient in recipients if heavy else ():
            recipient["attachments"] = [_file(draw)]
        if draw.random() < 0.3:
            fields["priority"] = draw.choice([0, 2])
        if draw.random() < 0.15:
            fields["scheduledAt"] = _in_seconds(draw.uniform(1, 20) * self._scale)
        elif draw.random() < 0.15:
            fields["expiresAt"] = _in_seconds(draw.uniform(2, 20) * self._scale)
        channels = draw.choice([("email",), ("email",), ("whatsapp",), ("email", "whatsapp")])
        posted = await self._client.post(recipients, channels, patience_s=_PATIENCE_S, **fields)
        if "expiresAt" in fields:
            posted.expires_at = datetime.fromisoformat(str(fields["expiresAt"])).timestamp()
        return posted

    async def _steer(self, posted: Posted) -> None:
        """Cancel a blast, pause and resume it, retry its failed jobs, or leave it alone."""
        choices = [[], ["cancel"], ["pause", "resume"], ["retry-failed"]]
        for step in self._random.choices(choices, weights=[6, 1, 1, 2])[0]:
            await asyncio.sleep(self._random.uniform(0, 3))
            if step == "retry-failed" and not await self._may_retry_failures(posted):
                return
            async with self._steering.setdefault(posted.blast_id, asyncio.Lock()):
                await self._ask(posted, step)

    async def _ask(self, posted: Posted, step: str) -> None:
        if step == "cancel" and posted.cancelled_at is None:
            posted.cancelled_at = math.inf
        status = await self._client.insist("POST", f"/api/v1/blasts/{posted.blast_id}/{step}", _PATIENCE_S)
        assert status in {200, 202, 409}, (step, status)
        self._steered[posted.blast_id] = step, time.time()
        if step == "cancel" and status != 409:
            posted.cancelled_at = min(posted.cancelled_at or math.inf, time.time())

    async def ask_again(self, lost: LostMaster) -> None:
        """Repeat what was asked for shortly before a failover, which may have forgotten it.

        A cancellation that it has forgotten counts from the repeated request on.
        """
        for posted in self.blasts:
            async with self._steering.setdefault(posted.blast_id, asyncio.Lock()):
                step, asked_at = self._steered.get(posted.blast_id, ("", 0.0))
                if asked_at < lost.lost_at - _RECENT_S or step not in {"cancel", "pause", "resume"}:
                    continue
                if step == "cancel" and posted.blast_id in lost.cancelled:
                    posted.cancelled_at = math.inf
                await self._ask(posted, step)

    async def _may_retry_failures(self, posted: Posted) -> bool:
        """Return whether the blast has ended in time; allow another delivery of failed jobs that may be delivered."""
        if not await self._client.ended(posted, _PATIENCE_S):
            return False
        rows = await self._client.rows(posted.blast_id)
        failed = (row for row in rows if row["status"] == "failed" and row["error_class"] in MAYBE_DELIVERED)
        self._oracle.allow(row["job_id"] for row in failed)
        return True


def _file(draw: random.Random) -> dict[str, str]:
    """A unique file of about 100 KB."""
    content = base64.b64encode(draw.randbytes(draw.randrange(50_000, 150_000))).decode()
    return {"filename": "bill.pdf", "contentType": "application/pdf", "content": content}


def _in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
