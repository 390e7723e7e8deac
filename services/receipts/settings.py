"""The receipts service's settings: those that every service has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.settings import CommonSettings, EnvReader, read_common

DEFAULT_PORT = 3040


@dataclass(frozen=True, slots=True)
class ReceiptsSettings:
    """The receipts service's settings from the environment."""

    common: CommonSettings


def read_settings(env: Mapping[str, str]) -> ReceiptsSettings:
    """Read the settings; raises SettingsError with all problems."""
    reader = EnvReader(env)
    settings = ReceiptsSettings(common=read_common(reader, DEFAULT_PORT))
    reader.finish()
    return settings
