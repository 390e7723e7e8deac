"""The list of channels: a new channel is one entry here and one folder under `services/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# the host name in the sandbox's SMTP greeting: a sender configured for the sandbox refuses any other server
SANDBOX_HOST = "sandbox.kurir"


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to reach a recipient.

    `address_field` is the recipient's field with the address, `port_offset` the distance of its sender's port from
    ingest's. A provider counts as configured once any of `provider_variables` is set; its sender then reports those
    that are missing. `sandboxed` is whether the sandbox can replace the provider.
    """

    name: str
    address_field: str
    port_offset: int
    service: str
    provider_variables: tuple[str, ...]
    sandboxed: bool = False

    def is_configured(self, env: Mapping[str, str]) -> bool:
        """Return whether the environment sets any of the provider's variables, directly or through a file."""
        return _any_set(self.provider_variables, env)


EMAIL = Channel("email", "email", 10, "email_sender", ("KURIR_SMTP_URL", "KURIR_SMTP_SERVERS"), sandboxed=True)
WHATSAPP_PROVIDERS = ("qiscus", "meta")
_QISCUS = ("KURIR_QISCUS_APP_CODE", "KURIR_QISCUS_CHANNEL_ID", "KURIR_QISCUS_SECRET_KEY")
_META = ("KURIR_META_PHONE_NUMBER_ID", "KURIR_META_ACCESS_TOKEN")
WHATSAPP = Channel("whatsapp", "phone", 20, "whatsapp_sender", (*_QISCUS, *_META), sandboxed=True)

# events for the client, not messages to recipients: so it is not in CHANNELS
WEBHOOK = Channel("webhook", "", 50, "webhook_sender", ())

CHANNELS: dict[str, Channel] = {channel.name: channel for channel in (EMAIL, WHATSAPP)}


def default_whatsapp_provider(env: Mapping[str, str]) -> str:
    """Return the provider where none is chosen: Meta if it alone is configured, otherwise Qiscus."""
    return "meta" if _any_set(_META, env) and not _any_set(_QISCUS, env) else "qiscus"


def _any_set(variables: Iterable[str], env: Mapping[str, str]) -> bool:
    return any(env.get(name, "").strip() or env.get(f"{name}_FILE", "").strip() for name in variables)
