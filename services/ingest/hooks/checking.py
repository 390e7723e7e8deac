"""The checks of all providers in one place: whether a request may be taken, and what is to be done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from services.ingest.hooks import signatures
from services.ingest.hooks.certificates import Fetch
from services.ingest.hooks.settings import HookSettings
from services.ingest.hooks.signatures import Delivery, same_secret
from services.ingest.hooks.sns import SnsChecker
from shared.logs import get_logger
from shared.queue.receipts import Once

SES = "ses"
PROVIDERS = ("brevo", "mailgun", "meta", "postmark", "qiscus", "resend", SES, "sendgrid")
# what to set so that the signatures of those that can sign are checked; for Qiscus that is not documented
_SIGNERS = {
    "mailgun": "KURIR_MAILGUN_HOOK_KEY",
    "meta": "KURIR_META_APP_SECRET",
    "resend": "KURIR_RESEND_HOOK_SECRET",
    "sendgrid": "KURIR_SENDGRID_HOOK_KEY",
}
# hashing more than this would hold up other requests
_LARGE_BYTES = 256 * 1024

_Check = Callable[[Delivery], Once | None]
log = get_logger()


@dataclass(frozen=True, slots=True)
class Genuine:
    """A genuine request; `keep` is whether it has receipts. Its token, if any, may be accepted `once`."""

    keep: bool = True
    once: Once | None = None


_GENUINE = Genuine()


class Hooks:
    """Checks requests of providers."""

    def __init__(self, settings: HookSettings, fetch: Fetch) -> None:
        self._settings = settings
        self._sns = SnsChecker(settings.ses_topics, fetch)
        self._checks = _checks(settings)

    def admits(self, token: str) -> bool:
        """Return whether the token of a URL is right, in a time that depends on neither."""
        return same_secret(self._settings.token, token) and bool(self._settings.token)

    def admits_meta(self, verify_token: str) -> bool:
        """Return whether this is the verify token that was entered at Meta."""
        wanted = self._settings.meta_verify_token
        return same_secret(wanted, verify_token) and bool(wanted)

    def unchecked(self, provider: str) -> str:
        """Return the setting that is missing to check the signatures of a provider, "" if none is."""
        return "" if provider in self._checks else _SIGNERS.get(provider, "")

    async def check(self, provider: str, delivery: Delivery) -> Genuine:
        """Return what to do with a genuine request; raises SignatureError and AmazonError."""
        if provider == SES:
            return await self._check_sns(delivery)
        check = self._checks.get(provider)
        if check is None:
            return _GENUINE
        if len(delivery.body) > _LARGE_BYTES:
            return Genuine(once=await asyncio.to_thread(check, delivery))
        once = check(delivery)
        return Genuine(once=once) if once is not None else _GENUINE

    async def _check_sns(self, delivery: Delivery) -> Genuine:
        message = await self._sns.check(delivery)
        if message.Type == "SubscriptionConfirmation":
            await self._sns.confirm(message)
            log.info("an SNS subscription is confirmed", topic=message.TopicArn)
        elif message.Type == "UnsubscribeConfirmation":
            log.warning("an SNS topic no longer sends receipts to Kurir: it was unsubscribed", topic=message.TopicArn)
        return Genuine(keep=message.Type == "Notification")


def _checks(settings: HookSettings) -> Mapping[str, _Check]:
    """Return a check for each provider with a secret."""
    found: dict[str, _Check] = {}
    if settings.meta_app_secret:
        found["meta"] = partial(signatures.check_meta, settings.meta_app_secret)
    if settings.qiscus_secret:
        found["qiscus"] = partial(signatures.check_qiscus, settings.qiscus_secret)
    if settings.sendgrid_key is not None:
        found["sendgrid"] = partial(signatures.check_sendgrid, settings.sendgrid_key)
    if settings.mailgun_key:
        found["mailgun"] = partial(signatures.check_mailgun, settings.mailgun_key)
    if settings.resend_secret:
        found["resend"] = partial(signatures.check_standard, settings.resend_secret)
    for provider, login in (("postmark", settings.postmark_login), ("brevo", settings.brevo_login)):
        if login:
            name = f"KURIR_{provider.upper()}_HOOK_LOGIN"
            found[provider] = partial(signatures.check_login, login, name)
    return found
