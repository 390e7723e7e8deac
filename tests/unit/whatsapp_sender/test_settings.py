"""The settings of the WhatsApp sender."""

from __future__ import annotations

import pytest

from services.whatsapp_sender.settings import read_settings
from shared.errors import SettingsError
from shared.jobs import Job, Recipient
from shared.sending.breaker import BreakerPolicy
from shared.settings import Rate

CREDENTIALS = {
    "KURIR_QISCUS_APP_CODE": "app/1",
    "KURIR_QISCUS_CHANNEL_ID": "42",
    "KURIR_QISCUS_SECRET_KEY": "s3cret",
    "KURIR_INTERNAL_SECRET": "what all services know",
}


def test_what_holds_without_being_said() -> None:
    """The defaults are 10 messages a second over all senders, and one in 6 s per recipient after a burst of 45."""
    settings = read_settings(CREDENTIALS)
    assert settings.sending.rate == Rate(10, 1.0)
    assert settings.sending.limit_of is not None
    limit = settings.sending.limit_of(Job("b", 0, "whatsapp", "normal", Recipient("62812", "S"), 0))
    assert limit is not None
    assert "62812" not in limit.name
    assert limit.burst == 45
    assert 6_000_000 <= limit.gap_us <= 6_500_000
    assert settings.qiscus.breaker == BreakerPolicy()
    assert settings.common.port == 3020


def test_the_url_is_built_from_app_and_channel() -> None:
    """Each is one segment of the path, whatever its characters; the settings' text never shows the secret."""
    settings = read_settings({**CREDENTIALS, "KURIR_QISCUS_URL": "https://wa.example.com/base/"})
    assert settings.qiscus.messages_url == "https://wa.example.com/base/whatsapp/v1/app%2F1/42/messages"
    assert "s3cret" not in repr(settings)


def test_every_problem_at_once() -> None:
    """Missing credentials, a URL with a password, an invalid rate and time-out are all reported, without a secret."""
    with pytest.raises(SettingsError) as caught:
        read_settings(
            {
                "KURIR_QISCUS_URL": "https://user:pass@example.com",
                "KURIR_QISCUS_SECRET_KEY": "a\r\nX-Evil: b",
                "KURIR_WHATSAPP_PAIR_RATE": "often",
                "KURIR_WHATSAPP_PAIR_BURST": "0",
                "KURIR_QISCUS_TIMEOUT": "0s",
            }
        )
    problems = " ".join(caught.value.problems)
    names = ("URL", "APP_CODE", "CHANNEL_ID", "SECRET_KEY", "TIMEOUT")
    for name in (*(f"KURIR_QISCUS_{name}" for name in names), "PAIR_RATE", "PAIR_BURST"):
        assert name in problems
    assert "pass" not in problems.replace("password", "")
    assert "Evil" not in problems


def test_limits_can_be_turned_off() -> None:
    """`off` means no limit, for the number and for the pair."""
    off = {"KURIR_WHATSAPP_RATE": "off", "KURIR_WHATSAPP_PAIR_RATE": "off"}
    sending = read_settings({**CREDENTIALS, **off}).sending
    assert sending.rate is None
    assert sending.limit_of is not None
    assert sending.limit_of(Job("b", 0, "whatsapp", "normal", Recipient("62812", "S"), 0)) is None


def test_domain_limits_do_not_apply_to_whatsapp() -> None:
    """A limit by domain is not read, since phone numbers have no domain."""
    assert read_settings({**CREDENTIALS, "KURIR_WHATSAPP_DOMAIN_RATES": "nonsense"}).sending.domain_rates == {}
