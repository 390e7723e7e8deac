"""The webhook sender's settings: its schedule, its policy, and problems that are all reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from services.webhook_sender.metrics import EndpointMetrics
from services.webhook_sender.settings import JITTER, WAITS_S, read_settings
from shared.errors import SettingsError
from shared.retry import RetryPolicy
from shared.sending.settings import REPEAT
from shared.settings import Rate
from tests.servers import INTERNAL_SECRET

ENV = {"KURIR_INTERNAL_SECRET": INTERNAL_SECRET}


def test_ten_attempts_within_about_three_days() -> None:
    """The waits are the contract's, whatever KURIR_MAX_ATTEMPTS says for messages; a delivery may be repeated."""
    settings = read_settings(ENV | {"KURIR_MAX_ATTEMPTS": "2", "KURIR_ON_UNCERTAIN": "hold"})
    sending = settings.sending
    assert (sending.max_attempts, sending.on_uncertain, sending.dead_letters) == (10, REPEAT, False)
    assert (sending.give_up_after_s, sending.rate, sending.concurrency) == (5 * 86400.0, None, 10)
    hours = [round(wait_s / 3600, 4) for wait_s in sending.waits_s]
    assert hours == [0.0014, 0.0833, 0.5, 2, 5, 10, 14, 20, 24]
    assert sum(WAITS_S) * (1 + JITTER) < sending.give_up_after_s
    assert settings.common.port == 3050
    assert settings.connection.breaker.slows


def test_the_time_scale_multiplies_the_whole_schedule() -> None:
    """At a hundredth, ten attempts take less than an hour, and deferrals end after 72 minutes."""
    settings = read_settings(ENV | {"KURIR_TIME_SCALE": "0.01"})
    sending = settings.sending
    retry = RetryPolicy(sending.max_attempts, sending.time_scale, sending.give_up_after_s, sending.waits_s)
    delays = [retry.delay_s(attempt) for attempt in range(1, 11)]
    assert delays[:2] == [0.05, 3.0]
    assert delays[8:] == [864.0, None]
    assert sending.give_up_after_s == pytest.approx(4320.0)
    assert settings.connection.breaker.open_s == pytest.approx(0.6)


def test_each_endpoint_has_a_rate_and_a_concurrency_of_its_own(tmp_path: Path) -> None:
    """What the operator sets is for one endpoint; its connections are as many as its requests at a time."""
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    own = {
        "KURIR_WEBHOOK_RATE": "5/1s",
        "KURIR_WEBHOOK_CONCURRENCY": "3",
        "KURIR_WEBHOOK_TIMEOUT": "2s",
        "KURIR_WEBHOOK_CONNECT_TIMEOUT": "1s",
        "KURIR_WEBHOOK_ALLOW": "10.0.0.0/8,localhost",
        "KURIR_WEBHOOK_CA_FILE": str(authority),
    }
    settings = read_settings(ENV | own)
    connection = settings.connection
    assert (settings.sending.rate, settings.sending.concurrency) == (Rate(5, 1.0), 3)
    assert (connection.connections, connection.answer_s, connection.connect_s) == (3, 2.0, 1.0)
    assert connection.allowed.covers_host("localhost")
    usual = read_settings(ENV).connection.tls
    assert connection.tls is not None
    assert usual is not None
    assert len(connection.tls.get_ca_certs()) == len(usual.get_ca_certs()) + 1


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Each names its variable."""
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    with pytest.raises(SettingsError) as raised:
        read_settings(
            {
                "KURIR_WEBHOOK_TIMEOUT": "0s",
                "KURIR_WEBHOOK_CONNECT_TIMEOUT": "1h",
                "KURIR_WEBHOOK_CONCURRENCY": "0",
                "KURIR_WEBHOOK_RATE": "fast",
                "KURIR_WEBHOOK_ALLOW": "10.0.0.1/8",
                "KURIR_WEBHOOK_CA_FILE": str(broken),
            }
        )
    said = "\n".join(raised.value.problems)
    for name in ("TIMEOUT", "CONNECT_TIMEOUT", "CONCURRENCY", "RATE", "ALLOW", "CA_FILE"):
        assert f"KURIR_WEBHOOK_{name}" in said
    assert "KURIR_INTERNAL_SECRET" in said
    with pytest.raises(SettingsError, match=r"KURIR_WEBHOOK_CA_FILE.*No such file"):
        read_settings(ENV | {"KURIR_WEBHOOK_CA_FILE": str(tmp_path / "missing")})


def test_the_metric_has_every_state_and_no_endpoint() -> None:
    """Its labels are a closed set; a state without endpoints is 0, not missing."""
    (gauge,) = EndpointMetrics(lambda: {"served": 3, "unreachable": 1}).collect()
    assert gauge.name == "kurir_webhook_sender_endpoints"
    assert {sample.labels["state"]: sample.value for sample in gauge.samples} == {
        "served": 3, "unreachable": 1, "disabled": 0,
    }  # fmt: skip
