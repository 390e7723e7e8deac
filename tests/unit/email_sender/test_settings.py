"""The email sender's settings: servers as URLs, and all problems together, without passwords."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from services.email_sender.oauth_settings import OAuthSettings
from services.email_sender.settings import ServerSettings, parse_server, read_settings
from shared.errors import SettingsError
from shared.settings import Rate

ENV = {
    "KURIR_SMTP_URL": "smtp://mail.example.com",
    "KURIR_EMAIL_FROM": "Tokó Kita <shop@example.com>",
    "KURIR_PUBLIC_URL": "https://kurir.example.com/",
    "KURIR_SECRET": "s",
    "KURIR_INTERNAL_SECRET": "hunter5hunter5hunter5",
}
PLAIN = ServerSettings("mail.example.com", 25, "if-offered")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", PLAIN),
        ("smtp://mail.example.com:2525", replace(PLAIN, port=2525)),
        ("smtp://u:p@mail.example.com:587", replace(PLAIN, port=587, tls="required", username="u", password="p")),
        ("smtps://u:p@mail.example.com", replace(PLAIN, port=465, tls="implicit", username="u", password="p")),
        ("smtp://a%40b.c:p%2Fw%2C@mail.example.com", replace(PLAIN, tls="required", username="a@b.c", password="p/w,")),
        ("smtp://u:p@mail.example.com?tls=off", replace(PLAIN, tls="off", username="u", password="p")),
        ("smtp://u:p@mail.example.com?auth=password", replace(PLAIN, tls="required", username="u", password="p")),
        ("smtp://a%40b.c@mail.example.com?auth=xoauth2", replace(PLAIN, tls="required", username="a@b.c", xoauth2="")),
        (
            "smtp://u@mail.example.com?auth=xoauth2&oauth=m365",
            replace(PLAIN, tls="required", username="u", xoauth2="m365"),
        ),
        ("smtp://mail.example.com?tls=required", replace(PLAIN, tls="required")),
        (
            "smtp://mail.example.com?weight=3&rate=14/1s&concurrency=2&max_messages=0",
            replace(PLAIN, weight=3, rate=Rate(14, 1.0), concurrency=2, max_messages=0),
        ),
    ],
)
def test_server_is_a_url(url: str, expected: ServerSettings) -> None:
    """Credentials make STARTTLS required; everything else is in the query."""
    assert parse_server(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "mail.example.com", "http://mail.example.com", "smtp://", "smtp://u@h", "smtp://h:70000", "smtp://h/path",
     "smtp://h?weight=0", "smtp://h?weight=x", "smtp://h?rate=fast", "smtp://h?tls=maybe", "smtps://h?tls=off",
     "smtp://h?nonsense=1", "smtp://u@h?auth=plain", "smtp://u:p@h?auth=xoauth2", "smtp://h?auth=xoauth2",
     "smtp://u@h?auth=xoauth2&oauth=no-name", "smtp://u@h?auth=xoauth2&oauth=A", "smtp://u:p@h?oauth=a",
     "smtp://u@h?auth=password"],
)  # fmt: skip
def test_server_that_cannot_be_one_is_refused(url: str) -> None:
    """Each problem has a reason."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_server(url)


def test_settings_of_a_good_environment() -> None:
    """Each setting that is not given has its documented default."""
    settings = read_settings(ENV)
    assert settings.mail.sender.name == "Tokó Kita"
    assert settings.mail.public_url == "https://kurir.example.com"
    assert (settings.mail.unsubscribe_to, settings.mail.return_path) == ("", "")
    assert (settings.common.port, settings.sending.concurrency) == (3010, 5)
    assert (settings.identity.keys.keys, settings.identity.domains) == ((), ("example.com",))
    assert settings.smtp.servers == (PLAIN,)


def test_several_servers() -> None:
    """KURIR_SMTP_SERVERS is a list of URLs and takes precedence over KURIR_SMTP_URL."""
    settings = read_settings({**ENV, "KURIR_SMTP_SERVERS": "smtp://one.example.com, smtp://two.example.com?weight=2"})
    assert [(server.host, server.weight) for server in settings.smtp.servers] == [
        ("one.example.com", 1), ("two.example.com", 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "is_postmark"),
    [("smtp.postmarkapp.com", True), ("SMTP-Broadcasts.PostmarkApp.com", True), ("postmarkapp.com.example", False)],
)
def test_a_server_of_postmark_is_known_by_its_name(host: str, is_postmark: bool) -> None:
    """Its messages need metadata, so that its webhooks name the job; among several servers, one is enough."""
    env = {**ENV, "KURIR_SMTP_URL": "", "KURIR_SMTP_SERVERS": f"smtp://mail.example.com,smtp://{host}"}
    assert read_settings(env).mail.with_metadata == is_postmark


def test_every_problem_is_reported_at_once_without_a_secret() -> None:
    """A broken URL is identified by its position, since it may contain a password."""
    env = {
        "KURIR_SMTP_SERVERS": "smtp://u:hunter2@one:99999, smtp://u:hunter2@",
        "KURIR_EMAIL_FROM": "nobody",
        "KURIR_PUBLIC_URL": "ftp://x",
        "KURIR_SMTP_HELO": "two words",
        "KURIR_DKIM_DOMAIN": "example.com",
    }
    with pytest.raises(SettingsError) as wrong:
        read_settings(env)
    for name in (
        "SMTP_SERVERS, server 1",
        "SMTP_SERVERS, server 2",
        "EMAIL_FROM",
        "PUBLIC_URL",
        "HELO",
        "SECRET",
        "DKIM",
    ):
        assert any(name in problem for problem in wrong.value.problems), name
    assert "hunter2" not in str(wrong.value)


@pytest.mark.parametrize("name", ENV)
def test_variable_that_is_missing_is_named(name: str) -> None:
    """No setting that mail needs has a silent default."""
    env = {key: value for key, value in ENV.items() if key != name}
    with pytest.raises(SettingsError, match=name):
        read_settings(env)


def test_sender_is_stuck_only_after_all_time_outs_together() -> None:
    """However long the time-outs, a send within them never makes its sender exit."""
    slow = read_settings({**ENV, "KURIR_SMTP_DATA_TIMEOUT": "2h", "KURIR_STUCK_AFTER": "1m"})
    assert slow.sending.stuck_after_s > slow.smtp.timeouts.longest_s(1) > 4 * 3600
    patient = read_settings({**ENV, "KURIR_STUCK_AFTER": "1d"})
    assert patient.sending.stuck_after_s == 86_400


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_invalid_certificate_file_is_a_problem(tmp_path: Path, content: str | None) -> None:
    """A missing, empty or wrong file is reported at start-up, not at the first message."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match="KURIR_SMTP_CA_FILE"):
        read_settings({**ENV, "KURIR_SMTP_CA_FILE": str(path)})


def test_certificate_file_is_taken(tmp_path: Path) -> None:
    """The file is an authority in PEM."""
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    assert read_settings({**ENV, "KURIR_SMTP_CA_FILE": str(path)}).smtp.ca_file == str(path)


def test_limits_of_domains_are_read() -> None:
    """Each domain, in any case, has a rate; `*` is for all others."""
    settings = read_settings({**ENV, "KURIR_EMAIL_DOMAIN_RATES": "Gmail.com=20/1s, *=50/1s"})
    assert settings.sending.domain_rates == {"gmail.com": Rate(20, 1.0), "*": Rate(50, 1.0)}


@pytest.mark.parametrize("text", ["gmail.com", "gmail.com=fast", "gmail.com=off", "=20/1s"])
def test_invalid_limit_of_a_domain_is_a_problem(text: str) -> None:
    """It is reported at start-up; otherwise mail would be sent too fast."""
    with pytest.raises(SettingsError, match="KURIR_EMAIL_DOMAIN_RATES"):
        read_settings({**ENV, "KURIR_EMAIL_DOMAIN_RATES": text})


def test_settings_show_no_secret() -> None:
    """Logging or printing them, by mistake or in a traceback, reveals no secret."""
    key = base64.b64encode(b"hunter3 hunter3 hunter3 hunter3 ").decode()
    dkim = {"KURIR_DKIM_DOMAIN": "example.com", "KURIR_DKIM_SELECTOR": "k", "KURIR_DKIM_PRIVATE_KEY": key}
    url = "smtp://some:hunter2@mail.example.com"
    shown = repr(read_settings({**ENV, "KURIR_SMTP_URL": url, "KURIR_SECRET": "hunter4hunter4", **dkim}))
    assert "mail.example.com" in shown
    assert "hunter" not in shown
    assert key not in shown


OAUTH = {
    "KURIR_SMTP_URL": "smtp://shop%40example.com@smtp.gmail.com:587?auth=xoauth2",
    "KURIR_SMTP_OAUTH_TOKEN_URL": "https://oauth2.googleapis.com/token",
    "KURIR_SMTP_OAUTH_CLIENT_ID": "client",
    "KURIR_SMTP_OAUTH_CLIENT_SECRET": "hunter2hunter2",
    "KURIR_SMTP_OAUTH_REFRESH_TOKEN": "1//refresh",
}


def test_a_server_with_xoauth2_has_its_client(tmp_path: Path) -> None:
    """The unnamed variables give it, with secrets from files too; no secret is shown."""
    (tmp_path / "refresh").write_text("1//of-a-file\n")
    env = {**ENV, **OAUTH, "KURIR_SMTP_OAUTH_REFRESH_TOKEN": ""}
    settings = read_settings({**env, "KURIR_SMTP_OAUTH_REFRESH_TOKEN_FILE": str(tmp_path / "refresh")})
    (server,) = settings.smtp.servers
    assert server.oauth == OAuthSettings(
        "https://oauth2.googleapis.com/token", "client", "hunter2hunter2", "1//of-a-file", ""
    )
    assert "hunter2hunter2" not in repr(settings)
    assert "of-a-file" not in repr(settings)


def test_servers_may_each_have_a_client_of_their_own() -> None:
    """A name in the URL selects it; the unnamed variables give what the named ones do not set."""
    servers = "smtp://a@one.example.com?auth=xoauth2,smtp://b@two.example.com?auth=xoauth2&oauth=m365,smtp://three.example.com"
    own = {
        "KURIR_SMTP_OAUTH_M365_TOKEN_URL": "https://login.microsoftonline.com/t/oauth2/v2.0/token",
        "KURIR_SMTP_OAUTH_M365_SCOPE": "https://outlook.office365.com/.default",
    }
    first, second, third = read_settings({**ENV, **OAUTH, **own, "KURIR_SMTP_SERVERS": servers}).smtp.servers
    assert first.oauth is not None
    assert second.oauth is not None
    assert (first.oauth.token_url, first.oauth.scope) == (OAUTH["KURIR_SMTP_OAUTH_TOKEN_URL"], "")
    assert (second.oauth.token_url, second.oauth.scope) == tuple(own.values())
    assert second.oauth.client_secret == "hunter2hunter2"
    assert third.oauth is None


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"KURIR_SMTP_OAUTH_TOKEN_URL": ""}, ["KURIR_SMTP_OAUTH_TOKEN_URL is required by auth=xoauth2"]),
        ({"KURIR_SMTP_OAUTH_TOKEN_URL": "http://idp.example.com/token"}, ["TOKEN_URL must be https://"]),
        ({"KURIR_SMTP_OAUTH_TOKEN_URL": "https://idp.example.com:99999/token"}, ["TOKEN_URL must be https://"]),
        ({"KURIR_SMTP_OAUTH_TOKEN_URL": "https://[idp/token"}, ["TOKEN_URL must be https://"]),
        ({"KURIR_SMTP_OAUTH_TOKEN_URL": "https:///token"}, ["TOKEN_URL must be https://"]),
        ({"KURIR_SMTP_OAUTH_TOKEN_URL": "idp.example.com"}, ["TOKEN_URL must be https://"]),
        ({"KURIR_SMTP_OAUTH_TOKEN_URL": "https://u:hunter2hunter2@idp.example.com/"}, ["TOKEN_URL must be https://"]),
        (
            {
                "KURIR_SMTP_OAUTH_CLIENT_ID": "",
                "KURIR_SMTP_OAUTH_CLIENT_SECRET": "",
                "KURIR_SMTP_OAUTH_REFRESH_TOKEN": "",
            },
            ["CLIENT_ID is required", "REFRESH_TOKEN or KURIR_SMTP_OAUTH_CLIENT_SECRET is required"],
        ),
    ],
)
def test_missing_settings_of_a_client_are_reported(changes: dict[str, str], problems: list[str]) -> None:
    """All missing settings are reported together, without secrets."""
    with pytest.raises(SettingsError) as caught:
        read_settings({**ENV, **OAUTH, **changes})
    assert len(caught.value.problems) == len(problems)
    assert all(words in problem for words, problem in zip(problems, caught.value.problems, strict=True))
    assert "hunter2hunter2" not in str(caught.value)
