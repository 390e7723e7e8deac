"""The webhook sender's settings: the schedule of attempts, time-outs, and the addresses that it may reach."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.webhook_sender.connector import Connection, tls_context
from shared.channels import WEBHOOK
from shared.sending.breaker import BreakerPolicy
from shared.sending.settings import ChannelPolicy, SendingSettings, read_sending_settings
from shared.settings import CommonSettings, EnvReader, read_common, read_time_out
from shared.special_addresses import read_allowed

DEFAULT_PORT = 3050
CA_FILE = "KURIR_WEBHOOK_CA_FILE"
_MINUTE_S, _HOUR_S = 60.0, 3600.0
# ten attempts within about three days; the logger disables an endpoint after five days of nothing but failures
WAITS_S = (
    5.0,
    5 * _MINUTE_S,
    30 * _MINUTE_S,
    *(hours * _HOUR_S for hours in (2, 5, 10, 14, 20, 24)),
)
JITTER = 0.1
GIVE_UP_AFTER_S = 5 * 24 * _HOUR_S
_POLICY = ChannelPolicy(
    rate="off",
    concurrency=10,
    give_up_after_s=GIVE_UP_AFTER_S,
    waits_s=WAITS_S,
    jitter=JITTER,
    repeats=True,
    dead_letters=False,
)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """All settings of the webhook sender; those in `sending` are for each endpoint."""

    common: CommonSettings
    sending: SendingSettings
    connection: Connection


def read_settings(env: Mapping[str, str]) -> WebhookSettings:
    """Read the settings; raises SettingsError with every problem."""
    reader = EnvReader(env)
    common = read_common(reader, DEFAULT_PORT)
    policy = replace(_POLICY, give_up_after_s=GIVE_UP_AFTER_S * common.time_scale)
    sending = read_sending_settings(reader, WEBHOOK, common, policy)
    connection = Connection(
        connect_s=read_time_out(reader, "KURIR_WEBHOOK_CONNECT_TIMEOUT", 10.0),
        answer_s=read_time_out(reader, "KURIR_WEBHOOK_TIMEOUT", 15.0),
        connections=sending.concurrency,
        allowed=read_allowed(reader),
        tls=_read_tls(reader),
        breaker=replace(BreakerPolicy.scaled(common.time_scale), slows=True),
        time_scale=common.time_scale,
    )
    reader.finish()
    return WebhookSettings(common, sending.patient(connection.connect_s + connection.answer_s), connection)


def _read_tls(reader: EnvReader) -> ssl.SSLContext | None:
    """Return the authorities that certify endpoints: the system's, and those of a file."""
    path = reader.path(CA_FILE, "")
    try:
        return tls_context(path)
    except OSError as error:  # an ssl.SSLError is one
        reader.problem(f"{CA_FILE}: {path} has no certificates that can be read: {error.strerror or error}")
        return None
