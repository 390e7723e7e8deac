"""The logger's settings: where the database lies, how long rows are kept, how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.settings import CommonSettings, EnvReader, read_common, read_region

DEFAULT_PORT = 3030


@dataclass(frozen=True, slots=True)
class LoggerSettings:
    """What the logger is told by its environment; `readers` threads answer queries.

    `region` is the country of phone numbers without a country code.
    """

    common: CommonSettings
    retention_days: int
    readers: int
    region: str = "ID"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.common.data_dir / "logs.db"


def read_settings(env: Mapping[str, str]) -> LoggerSettings:
    """Read the settings; raises SettingsError with every problem."""
    reader = EnvReader(env)
    settings = LoggerSettings(
        common=read_common(reader, DEFAULT_PORT),
        retention_days=reader.integer("KURIR_RETENTION_DAYS", 30, minimum=1, maximum=36_500),
        readers=reader.integer("KURIR_LOGGER_READERS", 3, minimum=1, maximum=32),
        region=read_region(reader),
    )
    reader.finish()
    return settings
