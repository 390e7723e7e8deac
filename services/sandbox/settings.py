"""The sandbox's settings: its two ports, its latency, and the credentials that it accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.settings import CommonSettings, EnvReader, read_common

DEFAULT_PORT = 3090
DEFAULT_SMTP_PORT = 3091


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """The sandbox's settings from the environment.

    `latency_s` is the delay between accepting a message and answering, `keep` is how many messages stay in memory to be
    shown. The last three are the credentials that the WhatsApp side requires.
    """

    common: CommonSettings
    smtp_port: int
    latency_s: float
    keep: int
    app_code: str
    channel_id: str
    secret_key: str

    @property
    def delivered(self) -> Path:
        """The file with one line per accepted message."""
        return self.common.data_dir / "sandbox" / "delivered.ndjson"


def read_settings(env: Mapping[str, str]) -> SandboxSettings:
    """Read the settings; raises SettingsError with all problems."""
    reader = EnvReader(env)
    settings = SandboxSettings(
        common=read_common(reader, DEFAULT_PORT),
        smtp_port=reader.integer("KURIR_SMTP_PORT", DEFAULT_SMTP_PORT, minimum=0, maximum=65535),
        latency_s=reader.integer("KURIR_SANDBOX_LATENCY_MS", 0, minimum=0, maximum=3_600_000) / 1000,
        keep=reader.integer("KURIR_SANDBOX_KEEP", 1000, minimum=1, maximum=100_000),
        app_code=reader.text("KURIR_QISCUS_APP_CODE", "sandbox"),
        channel_id=reader.text("KURIR_QISCUS_CHANNEL_ID", "1"),
        secret_key=reader.text("KURIR_QISCUS_SECRET_KEY", "sandbox"),
    )
    reader.finish()
    return settings
