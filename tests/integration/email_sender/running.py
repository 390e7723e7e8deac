"""Channels and whole senders that run while a block runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from services.email_sender.channel import EmailChannel
from services.email_sender.dkim_keys import KeyRing
from services.email_sender.message import Mail
from services.email_sender.settings import SmtpSettings
from shared.lifecycle import Stop
from shared.queue.batches import boot_name
from shared.sending.loop import SendingLoop
from shared.sending.settings import SendingSettings
from tests.integration.email_sender.mails import NO_KEYS, email_settings
from tests.integration.queue.world import World
from tests.integration.sending.fakes import RememberedAttempts
from tests.integration.sending.running import SETTINGS


@asynccontextmanager
async def opened(smtp: SmtpSettings, keys: KeyRing = NO_KEYS) -> AsyncIterator[EmailChannel]:
    """Open a channel to servers while the block runs."""
    channel = EmailChannel(email_settings(smtp, keys=keys))
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def sending_mail(
    world: World, smtp: SmtpSettings, settings: SendingSettings = SETTINGS, keys: KeyRing = NO_KEYS
) -> AsyncIterator[RememberedAttempts]:
    """Run one email sender while the block runs, then stop it and wait for its end."""
    observer = RememberedAttempts()
    settings = replace(settings, sender_id=settings.sender_id or boot_name("email", "test"))
    channel = EmailChannel(email_settings(smtp, keys=keys))
    loop: SendingLoop[Mail] = SendingLoop(world.redis, channel, settings, observer)
    stop = Stop()
    task = asyncio.create_task(loop.run(stop))
    try:
        yield observer
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task
