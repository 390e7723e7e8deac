"""Ingest's settings, read from the environment and checked as a whole at startup."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.ingest.api_keys import ApiKey, parse_key
from services.ingest.hooks.settings import HookSettings, read_hook_settings
from shared.addresses import ascii_domain
from shared.channels import CHANNELS, EMAIL, Channel
from shared.hosts import public_url_problem
from shared.settings import (
    CommonSettings,
    EnvReader,
    Rate,
    read_common,
    read_http_url,
    read_internal_secret,
    read_region,
)
from shared.special_addresses import Allowed, read_allowed

DEFAULT_PORT = 3000
_MEGABYTE = 1024 * 1024

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request: sizes in bytes, times in seconds.

    `json_bytes` bounds bodies that are held in memory, `upload_bytes` those that are spooled to disk, `line_bytes` a
    line of the latter. `idle_s` is the longest silence within a body, `header_s` the time for a request's head and
    between two requests on a connection.
    """

    json_bytes: int = 32 * _MEGABYTE
    upload_bytes: int = 4096 * _MEGABYTE
    line_bytes: int = 16 * _MEGABYTE
    idle_s: float = 30.0
    header_s: float = 30.0


@dataclass(frozen=True, slots=True)
class MailSettings:
    """The senders and links of mail; an empty address or no domains mean that they are not configured.

    `domains` are in ASCII. `sandboxed`: messages go to the sandbox, not to recipients.
    """

    from_address: str
    domains: frozenset[str]
    public_url: str
    secret: str
    sandboxed: bool = False

    @property
    def marketing_problem(self) -> str:
        """Why marketing mail cannot be sent, "" where it can: its unsubscribe link must work for every recipient."""
        if not self.secret:
            return "set KURIR_SECRET, which signs the links"
        problem = "" if self.sandboxed else public_url_problem(self.public_url)
        return f"KURIR_PUBLIC_URL: {problem}" if problem else ""


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """All settings of ingest."""

    common: CommonSettings
    limits: Limits
    mail: MailSettings
    keys: tuple[ApiKey, ...]
    trusted_proxies: tuple[Network, ...]
    rate_limit: Rate | None
    configured_channels: frozenset[str]
    sender_urls: Mapping[str, str]
    logger_url: str
    internal_secret: str = field(repr=False)
    hooks: HookSettings
    webhook_allow: Allowed
    default_region: str
    bulk_from: int
    max_backlog: int
    incomplete_after_s: float
    templates_dir: str


def read_settings(env: Mapping[str, str]) -> IngestSettings:
    """Read the settings; raises SettingsError with every problem."""
    reader = EnvReader(env)
    common = read_common(reader, DEFAULT_PORT)
    settings = IngestSettings(
        common=common,
        limits=_limits(reader),
        mail=_mail(reader),
        keys=_keys(reader),
        trusted_proxies=_networks(reader),
        rate_limit=reader.rate("KURIR_RATE_LIMIT", "1000/1m"),
        configured_channels=frozenset(name for name, channel in CHANNELS.items() if channel.is_configured(env)),
        sender_urls={name: _sender_url(reader, channel) for name, channel in CHANNELS.items()},
        logger_url=read_http_url(reader, "KURIR_LOGGER_URL", "http://127.0.0.1:3030"),
        internal_secret=read_internal_secret(reader),
        hooks=read_hook_settings(reader),
        webhook_allow=read_allowed(reader),
        default_region=read_region(reader),
        bulk_from=reader.integer("KURIR_BULK_FROM", 1000, minimum=1),
        max_backlog=reader.integer("KURIR_MAX_BACKLOG", 1_000_000, minimum=1),
        incomplete_after_s=reader.span("KURIR_INCOMPLETE_AFTER", 900.0) * common.time_scale,
        templates_dir=reader.path("KURIR_TEMPLATES_DIR", "templates"),
    )
    reader.finish()
    return settings


def _limits(reader: EnvReader) -> Limits:
    return Limits(
        json_bytes=reader.integer("KURIR_MAX_JSON_MB", 32, minimum=1, maximum=1024) * _MEGABYTE,
        upload_bytes=reader.integer("KURIR_MAX_UPLOAD_MB", 4096, minimum=1) * _MEGABYTE,
        idle_s=reader.span("KURIR_BODY_TIMEOUT", 30.0),
        header_s=reader.span("KURIR_HEADER_TIMEOUT", 30.0),
    )


def _mail(reader: EnvReader) -> MailSettings:
    sender = reader.text("KURIR_EMAIL_FROM", "")
    own = sender.rpartition("@")[2].strip(" >")
    domains = reader.items("KURIR_EMAIL_DOMAINS", own)
    return MailSettings(
        from_address=sender,
        domains=frozenset(map(ascii_domain, domains)),
        public_url=read_http_url(reader, "KURIR_PUBLIC_URL", ""),
        secret=reader.text("KURIR_SECRET", ""),
        sandboxed=EMAIL.name in reader.choices("KURIR_SANDBOXED", tuple(CHANNELS)),
    )


def _keys(reader: EnvReader) -> tuple[ApiKey, ...]:
    keys: list[ApiKey] = []
    for number, text in enumerate(reader.items("KURIR_API_KEYS"), start=1):
        try:
            keys.append(parse_key(text))
        except ValueError as error:
            # the text itself is a secret, so the message gives only its position
            reader.problem(f"KURIR_API_KEYS, key {number}: {error}")
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        reader.problem("KURIR_API_KEYS: two keys have the same name")
    return tuple(keys)


def _networks(reader: EnvReader) -> tuple[Network, ...]:
    networks = []
    for text in reader.items("KURIR_TRUSTED_PROXIES"):
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            reader.problem(f"KURIR_TRUSTED_PROXIES: {error}")
    return tuple(networks)


def _sender_url(reader: EnvReader, channel: Channel) -> str:
    name = f"KURIR_{channel.service.upper()}_URL"
    return read_http_url(reader, name, f"http://127.0.0.1:{DEFAULT_PORT + channel.port_offset}")
