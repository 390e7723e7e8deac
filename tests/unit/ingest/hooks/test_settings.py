"""The settings of hooks: every problem is reported at once, and none quotes a secret."""

from __future__ import annotations

from typing import Any

import pytest

from services.ingest.hooks.checking import PROVIDERS, Hooks
from services.ingest.hooks.settings import HookSettings, read_hook_settings
from services.ingest.settings import read_settings
from shared.errors import SettingsError
from shared.settings import EnvReader
from tests.unit.ingest.hooks.signers import TOPIC, SendGrid
from tests.unit.ingest.hooks.test_sns import Pages

TOKEN = "a-token.of_24~characters"
SENDGRID = SendGrid().public
RIGHT = {
    "KURIR_HOOK_TOKEN": TOKEN,
    "KURIR_META_APP_SECRET": "app secret",
    "KURIR_META_VERIFY_TOKEN": "verify token",
    "KURIR_QISCUS_HOOK_SECRET": "qiscus secret",
    "KURIR_SES_TOPIC_ARNS": f"{TOPIC}, arn:aws-cn:sns:cn-north-1:123456789012:x",
    "KURIR_SENDGRID_HOOK_KEY": SENDGRID,
    "KURIR_MAILGUN_HOOK_KEY": "mailgun key",
    "KURIR_POSTMARK_HOOK_LOGIN": "kurir:post:mark",
    "KURIR_BREVO_HOOK_LOGIN": "kurir:brevo",
    "KURIR_RESEND_HOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def read(env: dict[str, str]) -> HookSettings:
    reader = EnvReader(env)
    settings = read_hook_settings(reader)
    reader.finish()
    return settings


def test_every_setting_is_read() -> None:
    """With all of them set, no provider's requests are taken unchecked; ingest reads them too."""
    settings = read(RIGHT)
    assert settings.ses_topics == {TOPIC, "arn:aws-cn:sns:cn-north-1:123456789012:x"}
    hooks = Hooks(settings, Pages())
    assert [provider for provider in PROVIDERS if hooks.unchecked(provider)] == []
    assert read_settings(RIGHT | {"KURIR_INTERNAL_SECRET": "what all services know"}).hooks.token == TOKEN
    shown = repr(settings)
    assert not [value for name, value in RIGHT.items() if value in shown and name != "KURIR_SES_TOPIC_ARNS"]


def test_sendgrids_key_may_be_pem() -> None:
    """The frame and line breaks of PEM are ignored."""
    framed = f"-----BEGIN PUBLIC KEY-----\n{SENDGRID[:64]}\n{SENDGRID[64:]}\n-----END PUBLIC KEY-----\n"
    assert read(RIGHT | {"KURIR_SENDGRID_HOOK_KEY": framed}).sendgrid_key == read(RIGHT).sendgrid_key


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KURIR_HOOK_TOKEN", "0123456789-0123456789-x", "shorter than 24"),
        ("KURIR_HOOK_TOKEN", "0123456789/0123456789/0123456789", "only letters, digits"),
        ("KURIR_HOOK_TOKEN", "0123456789 0123456789 0123456789", "only letters, digits"),
        ("KURIR_SES_TOPIC_ARNS", "bounces", "is not the ARN of a topic"),
        ("KURIR_SES_TOPIC_ARNS", f"{TOPIC}:subscription-id", "is not the ARN of a topic"),
        ("KURIR_SENDGRID_HOOK_KEY", "SG.abc", "copy SendGrid's Verification Key"),
        ("KURIR_SENDGRID_HOOK_KEY", "MFkw", "copy SendGrid's Verification Key"),
        ("KURIR_POSTMARK_HOOK_LOGIN", "secretpassword", "user:password"),
        ("KURIR_BREVO_HOOK_LOGIN", ":secretpassword", "user:password"),
        ("KURIR_RESEND_HOOK_SECRET", "whsec_secret!", "not a signing secret"),
    ],
)
def test_a_wrong_value_is_named_without_quoting_a_secret(name: str, value: str, words: str) -> None:
    """The message says which variable and what it should be."""
    with pytest.raises(SettingsError) as raised:
        read(RIGHT | {name: value})
    (problem,) = raised.value.problems
    assert problem.startswith(name)
    assert words in problem
    assert value not in problem or name == "KURIR_SES_TOPIC_ARNS"


def test_secrets_of_hooks_without_a_token_are_a_mistake() -> None:
    """All are reported; Meta's app secret alone is fine, since sending may need it."""
    env: dict[str, Any] = {name: value for name, value in RIGHT.items() if name != "KURIR_HOOK_TOKEN"}
    with pytest.raises(SettingsError) as raised:
        read(env)
    named = {problem.split()[0] for problem in raised.value.problems}
    assert named == set(env) - {"KURIR_META_APP_SECRET"}
    assert read({"KURIR_META_APP_SECRET": "x"}).token == ""


def test_without_a_token_no_url_is_admitted() -> None:
    """An empty token matches nothing, an empty one of a request included."""
    closed = Hooks(HookSettings(), Pages())
    assert not closed.admits("")
    assert not closed.admits_meta("")
    hooks = Hooks(read(RIGHT), Pages())
    assert [hooks.admits(token) for token in (TOKEN, TOKEN[:-1], TOKEN.upper(), "")] == [True, False, False, False]
    assert [hooks.admits_meta(token) for token in ("verify token", "verify", "")] == [True, False, False]


def test_providers_that_can_sign_and_do_not_are_known() -> None:
    """With the token alone, these are reported; Postmark, Brevo and Qiscus rely on the URL."""
    hooks = Hooks(HookSettings(token=TOKEN), Pages())
    assert [provider for provider in PROVIDERS if hooks.unchecked(provider)] == [
        "mailgun",
        "meta",
        "resend",
        "sendgrid",
    ]
