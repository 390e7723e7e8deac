"""Sends one text message: a line to the centre's socket, and a line back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shared.blasts import Blast
from shared.errors import UnavailableError, UncertainError
from shared.jobs import Job
from shared.rendering import compile_template, job_values
from shared.sending.provider import (
    Capacity,
    Changed,
    ProviderStatus,
    Receipt,
    RenderedMessage,
    Start,
    at_once,
    ignore_change,
)
from tests.integration.sending.sms.replies import read_reply


class Sms(RenderedMessage, frozen=True):
    """A text for a number."""

    to: str
    text: str


class SmsChannel:
    """Implements `Provider`."""

    channel = "sms"

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def open(self, changed: Changed = ignore_change) -> None:
        del changed

    async def close(self) -> None:
        return

    def render(self, job: Job, blast: Blast) -> Sms:
        rendered = compile_template(blast.template).render(job_values(blast, job))
        return Sms(job.job_id, "", job.recipient.address, rendered.text)

    async def send(self, message: Sms, start: Start = at_once) -> Receipt:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError as error:
            raise UnavailableError(f"cannot connect: {error}", code="connect") from error
        try:
            await start()
            async with asyncio.timeout(5.0):
                writer.write(f"{message.to} {message.text}\n".encode())
                line = (await reader.readline()).decode().strip()
        except (OSError, TimeoutError) as error:
            raise UncertainError(f"the answer was lost: {error}", code="lost") from error
        finally:
            writer.close()
        return Receipt(read_reply(line), line)

    def capacity(self, wanted: int = 0) -> Capacity:
        del wanted
        return Capacity()

    def available(self) -> bool:
        return True

    async def status(self) -> ProviderStatus:
        return ProviderStatus(reachable=self._socket.exists(), authenticated=True)
