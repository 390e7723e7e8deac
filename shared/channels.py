"""The list of channels: a new channel is one entry here and one folder under `services/`."""

from __future__ import annotations

from collections.abc import Mapping
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
        names = (*self.provider_variables, *(f"{name}_FILE" for name in self.provider_variables))
        return any(env.get(name, "").strip() for name in names)


EMAIL = Channel("email", "email", 10, "email_sender", ("KURIR_SMTP_URL", "KURIR_SMTP_SERVERS"), sandboxed=True)
WHATSAPP = Channel(
    "whatsapp",
    "phone",
    20,
    "whatsapp_sender",
    ("KURIR_QISCUS_APP_CODE", "KURIR_QISCUS_CHANNEL_ID", "KURIR_QISCUS_SECRET_KEY"),
    sandboxed=True,
)

CHANNELS: dict[str, Channel] = {channel.name: channel for channel in (EMAIL, WHATSAPP)}
