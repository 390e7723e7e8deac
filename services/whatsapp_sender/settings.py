"""The WhatsApp sender's settings: the provider, its time-outs, and the rate of messages to one recipient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.whatsapp_sender import meta, qiscus
from services.whatsapp_sender.driver import Driver
from services.whatsapp_sender.meta import Meta
from services.whatsapp_sender.qiscus import Qiscus
from shared.channels import WHATSAPP, WHATSAPP_PROVIDERS, default_whatsapp_provider
from shared.sending.breaker import BreakerPolicy
from shared.sending.job_limits import pair_limit
from shared.sending.settings import SendingSettings, read_sending_settings
from shared.settings import CommonSettings, EnvReader, read_common, read_http_url, read_time_out
from shared.urls import host_of

DEFAULT_PORT = 3020
# Meta: one message in 6 s to one recipient, after a burst of 45
DEFAULT_PAIR_RATE = "1/6s"
DEFAULT_PAIR_BURST = 45
_GRAPH_HOST = "graph.facebook.com"
_WITH_VERSION = re.compile(r"https?://[^/]+/v[0-9]+\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Connection:
    """How to talk to the provider; times in seconds.

    `connect_s` bounds DNS, connecting and TLS together, `answer_s` the wait for the response.
    """

    connect_s: float = 10.0
    answer_s: float = 30.0
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)


@dataclass(frozen=True, slots=True)
class WhatsAppSettings:
    """All settings of the WhatsApp sender."""

    common: CommonSettings
    sending: SendingSettings
    driver: Driver
    connection: Connection


def read_settings(env: Mapping[str, str]) -> WhatsAppSettings:
    """Read the settings; raises SettingsError with every problem."""
    reader = EnvReader(env)
    common = read_common(reader, DEFAULT_PORT)
    sending = read_sending_settings(reader, WHATSAPP, common)
    pair_rate = reader.rate("KURIR_WHATSAPP_PAIR_RATE", DEFAULT_PAIR_RATE)
    pair_burst = reader.integer("KURIR_WHATSAPP_PAIR_BURST", DEFAULT_PAIR_BURST, minimum=1, maximum=100_000)
    provider = reader.choice("KURIR_WHATSAPP_PROVIDER", WHATSAPP_PROVIDERS, default_whatsapp_provider(env))
    connection = Connection(
        connect_s=read_time_out(reader, f"KURIR_{provider.upper()}_CONNECT_TIMEOUT", 10.0),
        answer_s=read_time_out(reader, f"KURIR_{provider.upper()}_TIMEOUT", 30.0),
        breaker=BreakerPolicy.scaled(common.time_scale),
    )
    settings = WhatsAppSettings(
        common=common,
        sending=replace(
            sending.patient(connection.connect_s + connection.answer_s), limit_of=pair_limit(pair_rate, pair_burst)
        ),
        driver=_meta(reader) if provider == "meta" else _qiscus(reader),
        connection=connection,
    )
    reader.finish()
    return settings


def _qiscus(reader: EnvReader) -> Qiscus:
    return Qiscus(
        url=read_http_url(reader, qiscus.URL, qiscus.DEFAULT_URL),
        app_code=_header_value(reader, qiscus.APP_CODE),
        channel_id=_header_value(reader, qiscus.CHANNEL_ID),
        secret=_header_value(reader, qiscus.SECRET_KEY),
    )


def _meta(reader: EnvReader) -> Meta:
    url = read_http_url(reader, meta.URL, meta.DEFAULT_URL)
    if host_of(url) == _GRAPH_HOST and not _WITH_VERSION.fullmatch(url):
        # without a version Meta takes the oldest that it still has, which changes by itself
        reader.problem(f"{meta.URL} must end with the version of the API, as {meta.DEFAULT_URL} does")
    phone_number_id = reader.text(meta.PHONE_NUMBER_ID)
    if phone_number_id and not re.fullmatch(r"[0-9]{1,32}", phone_number_id):
        reader.problem(
            f"{meta.PHONE_NUMBER_ID}: {phone_number_id[:40]!r} is not Meta's id of the number, which has only digits; "
            "it is not the phone number itself"
        )
    secret = _header_value(reader, meta.ACCESS_TOKEN)
    return Meta(url, phone_number_id, secret, _proving_secret(reader))


def _proving_secret(reader: EnvReader) -> str:
    """Return the app's secret if requests are to prove that we have it; hooks need it without that."""
    app_secret = reader.text(meta.APP_SECRET, "")
    if not reader.flag(meta.APP_SECRET_PROOF, False):
        return ""
    if not app_secret:
        reader.problem(f"{meta.APP_SECRET_PROOF} needs {meta.APP_SECRET}")
    return app_secret


def _header_value(reader: EnvReader, name: str) -> str:
    value = reader.text(name)
    if value and not (value.isascii() and value.isprintable()):
        reader.problem(f"{name} contains characters that are not allowed in an HTTP header")
    return value
