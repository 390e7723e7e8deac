"""The list of channels: a new channel is one line here and one folder under `services/`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to reach a recipient; `address_field` is the field of a recipient that it sends to."""

    name: str
    address_field: str
    port_offset: int
    service: str


EMAIL = Channel("email", "email", 10, "email_sender")
WHATSAPP = Channel("whatsapp", "phone", 20, "whatsapp_sender")

CHANNELS: dict[str, Channel] = {channel.name: channel for channel in (EMAIL, WHATSAPP)}
