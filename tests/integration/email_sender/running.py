"""A channel opened for a test and closed at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.email_sender.channel import EmailChannel
from services.email_sender.settings import SmtpSettings
from tests.integration.email_sender.mails import email_settings


@asynccontextmanager
async def opened(smtp: SmtpSettings) -> AsyncIterator[EmailChannel]:
    """Open a channel to servers while the block runs."""
    channel = EmailChannel(email_settings(smtp))
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()
