"""The settings of the WhatsApp sender."""

from __future__ import annotations

import hashlib
import hmac

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
    assert settings.connection.breaker == BreakerPolicy()
    assert settings.common.port == 3020


def test_the_url_is_built_from_app_and_channel() -> None:
    """Each is one segment of the path, whatever its characters; the settings' text never shows the secret."""
    settings = read_settings({**CREDENTIALS, "KURIR_QISCUS_URL": "https://wa.example.com/base/"})
    assert settings.driver.messages_url == "https://wa.example.com/base/whatsapp/v1/app%2F1/42/messages"
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


META = {
    "KURIR_META_PHONE_NUMBER_ID": "106540352242922",
    "KURIR_META_ACCESS_TOKEN": "t0ken",
    "KURIR_INTERNAL_SECRET": "what all services know",
}


@pytest.mark.parametrize(
    ("env", "name"),
    [
        (CREDENTIALS, "Qiscus"),
        (META, "Meta"),
        ({**CREDENTIALS, **META}, "Qiscus"),
        ({**CREDENTIALS, **META, "KURIR_WHATSAPP_PROVIDER": "meta"}, "Meta"),
        ({**CREDENTIALS, **META, "KURIR_WHATSAPP_PROVIDER": "Qiscus"}, "Qiscus"),
    ],
)
def test_the_provider_is_the_one_named_or_configured(env: dict[str, str], name: str) -> None:
    """Qiscus is the default where both are configured, Meta where it alone is."""
    assert read_settings(env).driver.name == name


def test_metas_url_has_version_and_number() -> None:
    """The default is a version that is known to work; the token is in no URL and in no text of the settings."""
    settings = read_settings({**META, "KURIR_META_TIMEOUT": "20s"})
    assert settings.driver.messages_url == "https://graph.facebook.com/v23.0/106540352242922/messages"
    assert settings.driver.headers == {"Authorization": "Bearer t0ken"}
    assert settings.connection.answer_s == 20.0
    assert "t0ken" not in repr(settings)


def test_a_request_proves_the_app_secret_where_that_is_asked_for() -> None:
    """`appsecret_proof` is Meta's: HMAC-SHA256 of the token by the app's secret. Hooks need the secret without it."""
    env = {**META, "KURIR_META_APP_SECRET": "app secret"}
    assert "proof" not in read_settings(env).driver.messages_url
    url = read_settings({**env, "KURIR_META_APP_SECRET_PROOF": "yes"}).driver.messages_url
    proof = hmac.new(b"app secret", b"t0ken", hashlib.sha256).hexdigest()
    assert url.endswith(f"/messages?appsecret_proof={proof}")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"KURIR_META_ACCESS_TOKEN": ""}, "KURIR_META_ACCESS_TOKEN is required"),
        ({"KURIR_META_ACCESS_TOKEN": "a\nb"}, "KURIR_META_ACCESS_TOKEN contains characters that are not allowed"),
        ({"KURIR_META_PHONE_NUMBER_ID": ""}, "KURIR_META_PHONE_NUMBER_ID is required"),
        ({"KURIR_META_PHONE_NUMBER_ID": "+62 812 3456"}, "it is not the phone number itself"),
        ({"KURIR_META_URL": "https://graph.facebook.com"}, "KURIR_META_URL must end with the version of the API"),
        ({"KURIR_META_URL": "https://graph.facebook.com/23.0"}, "as https://graph.facebook.com/v23.0 does"),
        ({"KURIR_META_URL": "ftp://example.com/v23.0"}, "KURIR_META_URL"),
        ({"KURIR_META_TIMEOUT": "0s"}, "KURIR_META_TIMEOUT"),
        ({"KURIR_META_APP_SECRET_PROOF": "yes"}, "KURIR_META_APP_SECRET_PROOF needs KURIR_META_APP_SECRET"),
        ({"KURIR_WHATSAPP_PROVIDER": "twilio"}, "'twilio' is unknown; use qiscus, meta"),
        ({"KURIR_WHATSAPP_PROVIDER": "qiscus"}, "KURIR_QISCUS_APP_CODE is required"),
    ],
)
def test_a_problem_of_metas_settings_is_named(changes: dict[str, str], problem: str) -> None:
    """Each says which setting is wrong and what it must be; none quotes the token."""
    with pytest.raises(SettingsError) as caught:
        read_settings({**META, **changes})
    assert problem in " ".join(caught.value.problems)
    assert "t0ken" not in str(caught.value)
