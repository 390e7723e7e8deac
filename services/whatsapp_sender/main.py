"""Composes the WhatsApp sender from the environment's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NoReturn

from services.whatsapp_sender.channel import WhatsAppChannel
from services.whatsapp_sender.settings import read_settings
from shared.clock import SystemClock
from shared.sender_service import SenderProcess, one_loop, run_sender


def run() -> NoReturn:
    """Run the WhatsApp sender until SIGTERM, then exit the process."""
    run_sender("whatsapp_sender", dict(os.environ), compose)


def compose(env: Mapping[str, str]) -> SenderProcess:
    """Compose one WhatsApp sender; raises SettingsError."""
    settings = read_settings(env)
    channel = WhatsAppChannel(settings.driver, settings.connection, SystemClock())
    shown = {"provider": settings.driver.name.lower(), "server": settings.driver.url}
    return one_loop(channel, settings.common, settings.sending, shown)
