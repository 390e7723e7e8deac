"""The sandbox's process: connects mailbox, outcomes and faults to the SMTP and HTTP servers."""

from __future__ import annotations

import os
from collections.abc import Mapping

from aiohttp import web

from services.sandbox.cloud_api import CloudApi
from services.sandbox.fault_api import FaultApi
from services.sandbox.faults import Faults
from services.sandbox.hook_bodies import Sender
from services.sandbox.mailbox import Mailbox
from services.sandbox.mailbox_api import MailboxApi
from services.sandbox.metrics import SandboxMetrics
from services.sandbox.outcomes import SLOW_S, MailOutcomes
from services.sandbox.reception import MailReception, SmtpListener
from services.sandbox.reporter import Reporter
from services.sandbox.settings import SandboxSettings, read_settings
from shared.clock import SystemClock
from shared.lifecycle import Stop, run_service
from shared.logs import configure_logging, get_logger
from shared.web import Health, operations_routes, serving

_MAX_BODY_BYTES = 1024 * 1024


async def run_sandbox(stop: Stop, env: Mapping[str, str]) -> None:
    """Serve until `stop` is set; raises SettingsError if the environment is not usable."""
    settings = read_settings(env)
    configure_logging("sandbox", settings.common)
    mailbox = Mailbox(settings.delivered, settings.keep, settings.keep_bytes)
    try:
        await _serve(stop, settings, mailbox)
    finally:
        mailbox.close()


async def _serve(stop: Stop, settings: SandboxSettings, mailbox: Mailbox) -> None:
    common = settings.common
    faults = Faults(SystemClock())
    metrics = SandboxMetrics()
    outcomes = MailOutcomes(SLOW_S * common.time_scale, settings.latency_s)
    sender = Sender(settings.phone_number_id, settings.app_code, settings.channel_id)
    reporter = Reporter(settings.reports, sender, metrics)
    reception = MailReception(mailbox, outcomes, faults, metrics, reporter)
    listener = SmtpListener(reception, common.host, settings.smtp_port)
    fault_api, mailbox_api = FaultApi(faults, listener), MailboxApi(mailbox)
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.add_routes(operations_routes(Health("sandbox"), metrics.exposition))
    app.add_routes(CloudApi(settings, mailbox, faults, metrics, reporter).routes())
    app.add_routes(fault_api.routes() + mailbox_api.routes())
    await listener.open()
    try:
        async with reporter.running(), serving(app, common.host, common.port) as port:
            get_logger().info("sandbox_ready", port=port, smtp_port=listener.port)
            await stop.wait()
            mailbox_api.close()
    finally:
        await fault_api.close()
        await listener.close()


def run() -> None:
    """Run the sandbox as a process."""
    run_service("sandbox", lambda stop: run_sandbox(stop, os.environ))
