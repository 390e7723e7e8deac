"""Prepares messages ahead: renders and signs fetched jobs before their turns.

It prepares a few at a time, so that the event loop can do other work in between, up to a bound in bytes. A message
that waits too long is dropped, since its Date must be the time of its sending.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from services.email_sender.encoder import MOST_AGE_S, SIGN_AHEAD_BYTES, Encoder
from services.email_sender.message import Frames, Mail
from shared.blasts import Blast
from shared.jobs import Job

MOST_AHEAD_BYTES = 16 * 1024 * 1024
_LEAST_BYTES = 4_000
_AT_ONCE, _AT_ONCE_BYTES = 8, 64 * 1024

# blast, index, run: a sender has the jobs of one channel
_Key = tuple[str, int, int]


class _Prepared(msgspec.Struct, frozen=True):
    mail: Mail
    made_at: float
    size: int

    def drop(self) -> None:
        """Let it not be signed, unless a process has it already."""
        if self.mail.signed is not None:
            self.mail.signed.give_up()


class Preparations:
    """The messages prepared ahead, by job and run: a job's next run is another message."""

    def __init__(self, frames: Frames, encoder: Encoder) -> None:
        self._frames = frames
        self._encoder = encoder
        self._planned: OrderedDict[_Key, tuple[Job, Blast]] = OrderedDict()
        self._prepared: dict[_Key, _Prepared] = {}
        self._bytes = 0
        self._next: asyncio.Handle | None = None

    def plan(self, jobs: Sequence[tuple[Job, Blast]]) -> None:
        """Prepare jobs soon, in this order, those of lane `high` first; ignores jobs that are already planned."""
        for job, blast in jobs:
            key = (job.blast_id, job.index, job.run)
            if key not in self._prepared and key not in self._planned:
                self._planned[key] = (job, blast)
                if job.lane == "high":
                    self._planned.move_to_end(key, last=False)
        self._continue()

    def take(self, job: Job) -> Mail | None:
        """Return the prepared message of a job; None if it must be rendered now."""
        prepared = self._pop(job)
        if prepared is None:
            return None
        if time.monotonic() - prepared.made_at > MOST_AGE_S:
            prepared.drop()
            return None
        return prepared.mail

    def forget(self, job: Job) -> None:
        """Drop the message of a job that this sender will not send now."""
        prepared = self._pop(job)
        if prepared is not None:
            prepared.drop()

    def close(self) -> None:
        """Stop preparing."""
        self._planned.clear()
        if self._next is not None:
            self._next.cancel()

    def _pop(self, job: Job) -> _Prepared | None:
        if not self._planned and not self._prepared:
            return None
        key = (job.blast_id, job.index, job.run)
        self._planned.pop(key, None)
        prepared = self._prepared.pop(key, None)
        if prepared is not None:
            self._bytes -= prepared.size
            if self._planned:
                self._continue()
        return prepared

    def _continue(self) -> None:
        if self._planned and self._next is None and self._bytes < MOST_AHEAD_BYTES:
            self._next = asyncio.get_running_loop().call_soon(self._prepare_some)

    def _prepare_some(self) -> None:
        self._next = None
        enough = min(self._bytes + _AT_ONCE_BYTES, MOST_AHEAD_BYTES)
        now = time.monotonic()
        for _ in range(_AT_ONCE):
            if not self._planned or self._bytes >= enough:
                break
            key, (job, blast) = self._planned.popitem(last=False)
            try:
                prepared = self._prepare(job, blast, now)
            except Exception:  # noqa: S112 -- the job's own attempt will fail in the same way and report it
                continue
            if prepared is not None:
                self._prepared[key] = prepared
                self._bytes += prepared.size
        self._continue()

    def _prepare(self, job: Job, blast: Blast, now: float) -> _Prepared | None:
        """Render a message and start to sign it; return None for one that is signed at its turn, or not at all."""
        frame = self._frames.get(blast)
        keys = self._encoder.keys_of(frame.domain)
        if frame.expected_size > SIGN_AHEAD_BYTES or not keys:
            return None
        mail = frame.fill(job)
        if (size := mail.body.size) > SIGN_AHEAD_BYTES:
            return None
        mail = self._encoder.sign_ahead(mail, keys, urgent=job.lane == "high")
        # its texts, and the encoded message
        return _Prepared(mail, now, _LEAST_BYTES + 2 * size)
