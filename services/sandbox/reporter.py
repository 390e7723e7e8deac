"""The reporter: reports later the outcome of accepted messages, as providers do by webhook and by mail."""

from __future__ import annotations

import asyncio
import base64
import hmac
import smtplib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from services.sandbox.hook_bodies import QiscusBodies, Sender, meta_body
from services.sandbox.metrics import SandboxMetrics
from services.sandbox.outbox import Outbox
from services.sandbox.returned_mail import ReturnedMail, returned_mail
from services.sandbox.settings import ReportSettings
from services.sandbox.statuses import Accepted, Event, StatusPlan
from shared.channels import SANDBOX_HOST
from shared.lifecycle import end_tasks
from shared.logs import get_logger

_MOST_STATUSES = 50
_HOOK_TIMEOUT_S = 10.0
_SMTP_TIMEOUT_S = 10.0
Bodies = Callable[[Sequence[Event]], list[bytes]]


class Reporter:
    """Reports accepted messages to the hooks and the bounce listener that the settings name, or to nobody.

    Created and used within one event loop.
    """

    def __init__(self, settings: ReportSettings, sender: Sender, metrics: SandboxMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._plan = StatusPlan(settings.after_s)
        timeout = aiohttp.ClientTimeout(total=_HOOK_TIMEOUT_S)
        self._http = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        bodies: dict[str, Bodies] = {
            "qiscus": QiscusBodies(sender).of,
            "meta": lambda events: [meta_body(events, sender)],
        }
        self._hooks = {provider: self._hook(provider, make) for provider, make in bodies.items()}
        self._mail = Outbox(self._return, 1)

    @property
    def has_hooks(self) -> bool:
        """Whether statuses of WhatsApp messages are reported."""
        return bool(self._settings.hooks_url)

    def accepted_whatsapp(self, provider: str, message: Accepted) -> None:
        """Report the statuses of a message that was accepted as this provider."""
        if self.has_hooks:
            for delay_s, event in self._plan.plan(message, time.time()):
                self._hooks[provider].add(event, delay_s)

    def accepted_mail(self, return_path: str, recipients: Sequence[str], raw: bytes) -> None:
        """Return bounces and complaints about a mail that was accepted."""
        if self._settings.bounces is None:
            return
        for recipient in recipients:
            mail = returned_mail(return_path, recipient, raw, time.time())
            if mail is not None:
                self._mail.add(mail, self._settings.after_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report while the block runs."""
        tasks = [asyncio.create_task(outbox.run()) for outbox in self._hooks.values()]
        tasks.append(asyncio.create_task(self._mail.run()))
        try:
            yield
        finally:
            await end_tasks(tasks)
            await self._http.close()

    def _hook(self, provider: str, make_bodies: Bodies) -> Outbox[Event]:
        async def deliver(events: list[Event]) -> bool:
            for body in make_bodies(events):
                if not await self._post(provider, body):
                    return False
            return True

        return Outbox(deliver, _MOST_STATUSES)

    async def _post(self, provider: str, body: bytes) -> bool:
        """Post one webhook; anything but a 200 is refused, as for Meta, which then tries again."""
        url = f"{self._settings.hooks_url}/hooks/{provider}/{self._settings.hook_token}"
        headers = {"Content-Type": "application/json", **self._signature(provider, body)}
        try:
            async with self._http.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            get_logger().warning("hook_unreachable", provider=provider, reason=type(error).__name__)
            status = 0
        else:
            if status != 200:
                get_logger().warning("hook_refused", provider=provider, status=status)
        return self._counted("hook", status == 200)

    def _signature(self, provider: str, body: bytes) -> dict[str, str]:
        settings = self._settings
        if provider == "meta" and settings.meta_app_secret:
            digest = hmac.digest(settings.meta_app_secret.encode(), body, "sha256")
            return {"X-Hub-Signature-256": f"sha256={digest.hex()}"}
        if provider == "qiscus" and settings.qiscus_hook_secret:
            digest = hmac.digest(settings.qiscus_hook_secret.encode(), body, "sha256")
            return {"Qiscus-Signature-Key": base64.b64encode(digest).decode()}
        return {}

    async def _return(self, mails: list[ReturnedMail]) -> bool:
        """Deliver mail to the bounce listener; mail that it refuses for good is dropped, as by any mail server."""
        for mail in mails:
            try:
                await asyncio.to_thread(self._deliver, mail)
            except (OSError, smtplib.SMTPException) as error:
                taken = _refused_for_good(error)
                get_logger().warning("mail_not_returned", kind=mail.kind, dropped=taken, reason=type(error).__name__)
                self._counted("mail", False)
                if not taken:
                    return False
            else:
                self._counted("mail", True)
        return True

    def _deliver(self, mail: ReturnedMail) -> None:
        """Send one mail; runs in a thread. Raises OSError or SMTPException."""
        assert self._settings.bounces is not None  # noqa: S101 -- `accepted_mail` adds nothing without
        host, port = self._settings.bounces
        with smtplib.SMTP(host, port, local_hostname=SANDBOX_HOST, timeout=_SMTP_TIMEOUT_S) as client:
            client.ehlo()
            options = ["SMTPUTF8"] if not mail.to.isascii() else []
            client.sendmail(mail.sender, [mail.to], mail.raw, options)

    def _counted(self, way: str, taken: bool) -> bool:
        self._metrics.report(way, "taken" if taken else "refused")
        return taken


def _refused_for_good(error: Exception) -> bool:
    """Return whether a server's answer is a 5xx, after which a mail server gives up."""
    codes = [error.smtp_code] if isinstance(error, smtplib.SMTPResponseException) else []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
    return bool(codes) and all(code >= 500 for code in codes)
