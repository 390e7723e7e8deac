"""The sandbox's settings: its two ports, its latency, the credentials that it accepts, and whom it reports to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.settings import CommonSettings, EnvReader, read_common, read_http_url
from shared.urls import split_url

DEFAULT_PORT = 3090
DEFAULT_SMTP_PORT = 3091
HOOKS_URL = "KURIR_SANDBOX_HOOKS_URL"
BOUNCES_URL = "KURIR_SANDBOX_BOUNCES_URL"


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Where the sandbox reports the outcome of messages: `hooks_url` "" and `bounces` None mean nowhere.

    Hooks are those of ingest below `hooks_url`, with the token of their URLs and what Qiscus and Meta sign with.
    `bounces` are the host and port of the server for bounce mail. `after_s` is the time to the first report, and
    between reports.
    """

    hooks_url: str = ""
    hook_token: str = field(default="", repr=False)
    qiscus_hook_secret: str = field(default="", repr=False)
    meta_app_secret: str = field(default="", repr=False)
    bounces: tuple[str, int] | None = None
    after_s: float = 1.0


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """The sandbox's settings from the environment.

    `latency_s` is the delay between accepting a message and answering, `keep` is how many messages stay in memory to be
    shown, `keep_bytes` how much of them. The credentials are those that Qiscus's and Meta's parts of it require.
    """

    common: CommonSettings
    smtp_port: int
    latency_s: float
    keep: int
    keep_bytes: int
    app_code: str
    channel_id: str
    secret_key: str = field(repr=False)
    phone_number_id: str
    access_token: str = field(repr=False)
    reports: ReportSettings

    @property
    def delivered(self) -> Path:
        """The file with one line per accepted message."""
        return self.common.data_dir / "sandbox" / "delivered.ndjson"


def read_settings(env: Mapping[str, str]) -> SandboxSettings:
    """Read the settings; raises SettingsError with all problems."""
    reader = EnvReader(env)
    common = read_common(reader, DEFAULT_PORT)
    settings = SandboxSettings(
        common=common,
        smtp_port=reader.integer("KURIR_SMTP_PORT", DEFAULT_SMTP_PORT, minimum=0, maximum=65535),
        latency_s=reader.integer("KURIR_SANDBOX_LATENCY_MS", 0, minimum=0, maximum=3_600_000) / 1000,
        keep=reader.integer("KURIR_SANDBOX_KEEP", 1000, minimum=1, maximum=100_000),
        keep_bytes=reader.integer("KURIR_SANDBOX_KEEP_MB", 64, minimum=1, maximum=65_536) * 1024 * 1024,
        app_code=reader.text("KURIR_QISCUS_APP_CODE", "sandbox"),
        channel_id=reader.text("KURIR_QISCUS_CHANNEL_ID", "1"),
        secret_key=reader.text("KURIR_QISCUS_SECRET_KEY", "sandbox"),
        phone_number_id=reader.text("KURIR_META_PHONE_NUMBER_ID", "1"),
        access_token=reader.text("KURIR_META_ACCESS_TOKEN", "sandbox"),
        reports=_read_reports(reader, common.time_scale),
    )
    reader.finish()
    return settings


def _read_reports(reader: EnvReader, time_scale: float) -> ReportSettings:
    hooks_url = read_http_url(reader, HOOKS_URL, "")
    token = reader.text("KURIR_HOOK_TOKEN", "")
    if hooks_url and not token:
        reader.problem(f"{HOOKS_URL} needs KURIR_HOOK_TOKEN, which is a part of the hooks' URLs")
    return ReportSettings(
        hooks_url=hooks_url,
        hook_token=token,
        qiscus_hook_secret=reader.text("KURIR_QISCUS_HOOK_SECRET", ""),
        meta_app_secret=reader.text("KURIR_META_APP_SECRET", ""),
        bounces=_bounces(reader),
        after_s=reader.seconds("KURIR_SANDBOX_REPORTS_AFTER", 1.0) * time_scale,
    )


def _bounces(reader: EnvReader) -> tuple[str, int] | None:
    url = reader.text(BOUNCES_URL, "")
    if not url:
        return None
    try:
        parts = split_url(url, ("smtp",), "smtp://host[:port]")
    except ValueError as error:
        reader.problem(f"{BOUNCES_URL}: {error}")
        return None
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.username is not None:
        reader.problem(f"{BOUNCES_URL} must be smtp://host[:port]")
        return None
    return parts.hostname, parts.port or 25
