"""Composes the email sender from the environment's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NoReturn

from services.email_sender.channel import EmailChannel
from services.email_sender.settings import read_settings
from shared.sender_service import SenderProcess, one_loop, run_sender


def run() -> NoReturn:
    """Run the email sender until SIGTERM, then exit the process."""
    run_sender("email_sender", dict(os.environ), compose)


def compose(env: Mapping[str, str]) -> SenderProcess:
    """Compose one email sender; raises SettingsError."""
    settings = read_settings(env)
    servers = [server.name for server in settings.smtp.servers]
    keys = [key.dns_name for key in settings.identity.keys.keys]
    notes = {"servers": servers, "ehlo": settings.smtp.helo, "dkim": keys}
    return one_loop(EmailChannel(settings), settings.common, settings.sending, notes)
