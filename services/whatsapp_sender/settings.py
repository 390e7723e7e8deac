"""The WhatsApp sender's settings: the Qiscus app, its time-outs, and the rate of messages to one recipient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from shared.channels import WHATSAPP
from shared.sending.breaker import BreakerPolicy
from shared.sending.job_limits import pair_limit
from shared.sending.settings import SendingSettings, read_sending_settings
from shared.settings import CommonSettings, EnvReader, read_common, read_http_url

DEFAULT_PORT = 3020
DEFAULT_URL = "https://omnichannel.qiscus.com"
# Meta: one message in 6 s to one recipient, after a burst of 45
DEFAULT_PAIR_RATE = "1/6s"
DEFAULT_PAIR_BURST = 45


@dataclass(frozen=True, slots=True)
class QiscusSettings:
    """One Qiscus app and its WhatsApp channel; times in seconds.

    `connect_s` bounds DNS, connecting and TLS together, `answer_s` the wait for the response.
    """

    url: str
    app_code: str
    channel_id: str
    secret_key: str = field(repr=False)
    connect_s: float = 10.0
    answer_s: float = 30.0
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)

    @property
    def messages_url(self) -> str:
        """The URL that messages are posted to."""
        return f"{self.url}/whatsapp/v1/{quote(self.app_code, safe='')}/{quote(self.channel_id, safe='')}/messages"


@dataclass(frozen=True, slots=True)
class WhatsAppSettings:
    """All settings of the WhatsApp sender."""

    common: CommonSettings
    sending: SendingSettings
    qiscus: QiscusSettings


def read_settings(env: Mapping[str, str]) -> WhatsAppSettings:
    """Read the settings; raises SettingsError with every problem."""
    reader = EnvReader(env)
    common = read_common(reader, DEFAULT_PORT)
    sending = read_sending_settings(reader, WHATSAPP.name, common)
    pair_rate = reader.rate("KURIR_WHATSAPP_PAIR_RATE", DEFAULT_PAIR_RATE)
    pair_burst = reader.integer("KURIR_WHATSAPP_PAIR_BURST", DEFAULT_PAIR_BURST, minimum=1, maximum=100_000)
    settings = WhatsAppSettings(
        common=common,
        sending=replace(sending, limit_of=pair_limit(pair_rate, pair_burst)),
        qiscus=_qiscus(reader, common),
    )
    reader.finish()
    return settings


def _qiscus(reader: EnvReader, common: CommonSettings) -> QiscusSettings:
    return QiscusSettings(
        url=read_http_url(reader, "KURIR_QISCUS_URL", DEFAULT_URL),
        app_code=_header_value(reader, "KURIR_QISCUS_APP_CODE"),
        channel_id=_header_value(reader, "KURIR_QISCUS_CHANNEL_ID"),
        secret_key=_header_value(reader, "KURIR_QISCUS_SECRET_KEY"),
        connect_s=_time_out(reader, "KURIR_QISCUS_CONNECT_TIMEOUT", 10.0),
        answer_s=_time_out(reader, "KURIR_QISCUS_TIMEOUT", 30.0),
        breaker=BreakerPolicy.scaled(common.time_scale),
    )


def _header_value(reader: EnvReader, name: str) -> str:
    value = reader.text(name)
    if value and not (value.isascii() and value.isprintable()):
        reader.problem(f"{name} contains characters that are not allowed in an HTTP header")
    return value


def _time_out(reader: EnvReader, name: str, default: float) -> float:
    seconds = reader.seconds(name, default)
    if not 0 < seconds <= 300:
        reader.problem(f"{name}: {seconds:g} s is out of range; it must be above 0 and at most 300 s")
    return seconds
