"""The driver of Qiscus (documentation.qiscus.com, omnichannel chat, WhatsApp Business API)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from urllib.parse import quote

from services.whatsapp_sender.driver import SettingNames

DEFAULT_URL = "https://omnichannel.qiscus.com"
URL = "KURIR_QISCUS_URL"
APP_CODE = "KURIR_QISCUS_APP_CODE"
CHANNEL_ID = "KURIR_QISCUS_CHANNEL_ID"
SECRET_KEY = "KURIR_QISCUS_SECRET_KEY"  # noqa: S105 -- the setting's name
_NAMES = SettingNames(
    url=URL,
    place=(APP_CODE, CHANNEL_ID),
    place_words="app or channel",
    secret=SECRET_KEY,
    credentials=(APP_CODE, SECRET_KEY),
    mentioned=(
        (CHANNEL_ID, re.compile(r"channel|phone number|object with id", re.IGNORECASE)),
        (SECRET_KEY, re.compile(r"secret|token", re.IGNORECASE)),
        (APP_CODE, re.compile(r"\bapp\b|app[ _-]?(id|code)|application", re.IGNORECASE)),
    ),
)


@dataclass(frozen=True, slots=True)
class Qiscus:
    """One Qiscus app and its WhatsApp channel; implements `Driver`."""

    url: str
    app_code: str
    channel_id: str
    secret: str = field(repr=False)
    name: ClassVar[str] = "Qiscus"
    names: ClassVar[SettingNames] = _NAMES
    fields: ClassVar[Mapping[str, str]] = {}
    takes_namespace: ClassVar[bool] = True
    number_url: ClassVar[str] = ""

    @property
    def messages_url(self) -> str:
        """The URL that messages are posted to."""
        return f"{self.url}/whatsapp/v1/{quote(self.app_code, safe='')}/{quote(self.channel_id, safe='')}/messages"

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that log in."""
        return {"Qiscus-App-Id": self.app_code, "Qiscus-Secret-Key": self.secret}

    def read_number(self, _body: Mapping[str, Any]) -> dict[str, object]:
        """Return nothing: Qiscus has no page about the number."""
        return {}

    def with_secret(self, secret: str) -> Qiscus:
        """Return the same app with another secret key."""
        return replace(self, secret=secret)
