"""The receipts service's settings: those that every service has, and how bounce mail comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.receipts.mail.settings import BounceSettings, read_bounce_settings
from shared.settings import CommonSettings, EnvReader, read_common

DEFAULT_PORT = 3040


@dataclass(frozen=True, slots=True)
class ReceiptsSettings:
    """The receipts service's settings from the environment."""

    common: CommonSettings
    bounces: BounceSettings


def read_settings(env: Mapping[str, str]) -> ReceiptsSettings:
    """Read the settings; raises SettingsError with all problems."""
    reader = EnvReader(env)
    settings = ReceiptsSettings(read_common(reader, DEFAULT_PORT), read_bounce_settings(reader))
    reader.finish()
    return settings
