"""The settings of the SMS sender: those of all senders, and the address of the centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.channels import CHANNELS
from shared.sending.settings import SendingSettings, read_sending_settings
from shared.settings import CommonSettings, EnvReader, read_common


@dataclass(frozen=True, slots=True)
class SmsSettings:
    """The settings of the SMS sender."""

    common: CommonSettings
    sending: SendingSettings
    socket: Path


def read_settings(env: Mapping[str, str]) -> SmsSettings:
    """Read the settings; raises SettingsError with every problem."""
    reader = EnvReader(env)
    common = read_common(reader, 3040)
    settings = SmsSettings(
        common, read_sending_settings(reader, CHANNELS["sms"], common), Path(reader.text("KURIR_SMS_SOCKET"))
    )
    reader.finish()
    return settings
