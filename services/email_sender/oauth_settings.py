"""Settings for XOAUTH2's access tokens, `KURIR_SMTP_OAUTH_…`, for all servers or by name.

A server with `?auth=xoauth2` uses `KURIR_SMTP_OAUTH_TOKEN_URL`, `_CLIENT_ID`, `_CLIENT_SECRET`, `_REFRESH_TOKEN` and
`_SCOPE`. One with `&oauth=billing` uses `KURIR_SMTP_OAUTH_BILLING_TOKEN_URL` and so on, and falls back to the unnamed
setting for each that is not set. A refresh token is exchanged for access tokens (RFC 6749, 6); without one, the client
uses its own credentials (4.4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from shared.hosts import is_loopback
from shared.settings import EnvReader

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """A client of an OAuth 2.0 token endpoint; an empty `refresh_token` means the grant of client credentials."""

    token_url: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    scope: str = ""

    def form(self, refresh_token: str) -> dict[str, str]:
        """Return the form fields of a token request (RFC 6749, 4.4.2 and 6)."""
        grant = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        fields = grant if refresh_token else {"grant_type": "client_credentials"}
        fields |= {"client_id": self.client_id, "client_secret": self.client_secret, "scope": self.scope}
        return {name: value for name, value in fields.items() if value}


def is_oauth_name(name: str) -> bool:
    """Return whether `name` may name a server's OAuth settings."""
    return _NAME.fullmatch(name) is not None


class OAuthReader:
    """Reads the OAuth settings of each server that uses them; the unnamed ones are always read."""

    def __init__(self, reader: EnvReader) -> None:
        self._reader = reader
        self._usual = {
            "TOKEN_URL": reader.text("KURIR_SMTP_OAUTH_TOKEN_URL", ""),
            "CLIENT_ID": reader.text("KURIR_SMTP_OAUTH_CLIENT_ID", ""),
            "CLIENT_SECRET": reader.text("KURIR_SMTP_OAUTH_CLIENT_SECRET", ""),
            "REFRESH_TOKEN": reader.text("KURIR_SMTP_OAUTH_REFRESH_TOKEN", ""),
            "SCOPE": reader.text("KURIR_SMTP_OAUTH_SCOPE", ""),
        }

    def read(self, name: str) -> OAuthSettings:
        """Return the settings of that name ("" for the unnamed ones); reports every problem to the reader."""
        own = f"{name.upper()}_" if name else ""
        before = f"KURIR_SMTP_OAUTH_{own}"
        values = self._usual
        if name:
            values = {key: self._reader.text(before + key, usual) for key, usual in self._usual.items()}
        for key in ("TOKEN_URL", "CLIENT_ID"):
            if not values[key]:
                self._reader.problem(f"{before}{key} is required by auth=xoauth2")
        if values["TOKEN_URL"] and not _is_safe(values["TOKEN_URL"]):
            self._reader.problem(f"{before}TOKEN_URL must be https://…, without a user name")
        if not values["REFRESH_TOKEN"] and not values["CLIENT_SECRET"]:
            self._reader.problem(f"{before}REFRESH_TOKEN or {before}CLIENT_SECRET is required by auth=xoauth2")
        return OAuthSettings(
            values["TOKEN_URL"], values["CLIENT_ID"], values["CLIENT_SECRET"], values["REFRESH_TOKEN"], values["SCOPE"]
        )


def _is_safe(url: str) -> bool:
    """Return whether secrets may be sent to a URL: over TLS, or to this machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    written = url.isascii() and url.isprintable() and " " not in url and parts.username is None
    if not written or not host or port == 0:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
