"""The driver of Meta's own Cloud API (developers.facebook.com, business messaging, WhatsApp, messages)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from urllib.parse import urlencode

from services.whatsapp_sender.driver import SettingNames
from shared.foreign_text import legible

DEFAULT_URL = "https://graph.facebook.com/v23.0"
URL = "KURIR_META_URL"
PHONE_NUMBER_ID = "KURIR_META_PHONE_NUMBER_ID"
ACCESS_TOKEN = "KURIR_META_ACCESS_TOKEN"  # noqa: S105 -- the setting's name
APP_SECRET = "KURIR_META_APP_SECRET"  # noqa: S105 -- the setting's name
APP_SECRET_PROOF = "KURIR_META_APP_SECRET_PROOF"  # noqa: S105 -- the setting's name
_NAMES = SettingNames(
    url=URL,
    place=(PHONE_NUMBER_ID,),
    place_words="phone number id",
    secret=ACCESS_TOKEN,
    credentials=(ACCESS_TOKEN,),
    mentioned=(
        (APP_SECRET, re.compile(r"appsecret_proof", re.IGNORECASE)),
        (APP_SECRET_PROOF, re.compile(r"appsecret_proof", re.IGNORECASE)),
        (URL, re.compile(r"unknown path|api version", re.IGNORECASE)),
        (PHONE_NUMBER_ID, re.compile(r"phone number|object with id", re.IGNORECASE)),
        (ACCESS_TOKEN, re.compile(r"token|session", re.IGNORECASE)),
    ),
)
# Graph API, reference, WhatsApp business account to number: field, and the name that the status shows
_NUMBER_FIELDS = {
    "display_phone_number": "phone",
    "verified_name": "name",
    "quality_rating": "quality",
    "status": "status",
}
_MOST_WORDS = 100


@dataclass(frozen=True, slots=True)
class Meta:
    """One WhatsApp number at Meta; implements `Driver`. With `app_secret`, each request proves that we have it."""

    url: str
    phone_number_id: str
    secret: str = field(repr=False)
    app_secret: str = field(default="", repr=False)
    name: ClassVar[str] = "Meta"
    names: ClassVar[SettingNames] = _NAMES
    fields: ClassVar[Mapping[str, str]] = {"messaging_product": "whatsapp", "recipient_type": "individual"}
    takes_namespace: ClassVar[bool] = False

    @property
    def messages_url(self) -> str:
        """The URL that messages are posted to."""
        return self._with_proof(f"{self.url}/{self.phone_number_id}/messages", {})

    @property
    def number_url(self) -> str:
        """The URL that describes the sending number."""
        return self._with_proof(f"{self.url}/{self.phone_number_id}", {"fields": ",".join(_NUMBER_FIELDS)})

    @property
    def headers(self) -> Mapping[str, str]:
        """The header that logs in."""
        return {"Authorization": f"Bearer {self.secret}"}

    def read_number(self, body: Mapping[str, Any]) -> dict[str, object]:
        """Return the number, its name, Meta's rating of it (GREEN, YELLOW, RED) and its status."""
        found = {shown: body.get(name) for name, shown in _NUMBER_FIELDS.items()}
        return {shown: legible(value)[:_MOST_WORDS] for shown, value in found.items() if isinstance(value, str)}

    def with_secret(self, secret: str) -> Meta:
        """Return the same number with another access token."""
        return replace(self, secret=secret)

    def _with_proof(self, url: str, query: dict[str, str]) -> str:
        """Return a URL with `appsecret_proof`, which apps may require (Graph API, securing requests)."""
        if self.app_secret:
            query["appsecret_proof"] = hmac.digest(self.app_secret.encode(), self.secret.encode(), "sha256").hex()
        return f"{url}?{urlencode(query, safe=',')}" if query else url
