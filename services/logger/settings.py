"""The logger's settings: the database's folder, retention, reader threads, and the backup folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.settings import CommonSettings, EnvReader, read_common, read_internal_secret, read_region

DEFAULT_PORT = 3030


@dataclass(frozen=True, slots=True)
class LoggerSettings:
    """The logger's settings from the environment; `readers` threads answer queries.

    `region` is the country of phone numbers without a country code. `webhook_recipients` is whether events for webhooks
    have the recipients' addresses.
    """

    common: CommonSettings
    retention_days: int
    readers: int
    internal_secret: str = field(repr=False)
    region: str = "ID"
    backup_dir: Path | None = None
    webhook_recipients: bool = False

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.common.data_dir / "logs.db"

    @property
    def backup_places(self) -> tuple[Path, ...]:
        """The folders that may hold backups; a bare file name means the first."""
        return (self.backup_dir, self.common.data_dir) if self.backup_dir else (self.common.data_dir,)


def read_settings(env: Mapping[str, str]) -> LoggerSettings:
    """Read the settings; raises SettingsError with all problems."""
    reader = EnvReader(env)
    settings = LoggerSettings(
        common=read_common(reader, DEFAULT_PORT),
        retention_days=reader.integer("KURIR_RETENTION_DAYS", 30, minimum=1, maximum=36_500),
        readers=reader.integer("KURIR_LOGGER_READERS", 3, minimum=1, maximum=32),
        internal_secret=read_internal_secret(reader),
        region=read_region(reader),
        backup_dir=_backup_dir(reader),
        webhook_recipients=reader.flag("KURIR_WEBHOOK_RECIPIENTS", default=False),
    )
    reader.finish()
    return settings


def _backup_dir(reader: EnvReader) -> Path | None:
    text = reader.text("KURIR_BACKUP_DIR", "")
    if text and not Path(text).is_dir():
        reader.problem(f"KURIR_BACKUP_DIR: {text} is not a folder")
    return Path(text).resolve() if text else None
