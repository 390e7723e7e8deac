"""URLs with passwords: read as intended or refused with a hint, and never quoted."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from services.email_sender.settings import parse_server
from services.email_sender.settings import read_settings as read_email
from services.ingest.settings import read_settings as read_ingest
from services.whatsapp_sender.settings import read_settings as read_whatsapp
from shared.errors import SettingsError
from shared.masking import mask
from shared.queue.connection import connect
from shared.settings import EnvReader, read_redis_url
from shared.urls import without_password

# characters that passwords have, single and combined, in places where they change the meaning of the URL
PASSWORDS = (
    *("Rahasia?dariku", "Rahasia#dariku", "Rahasia/dariku", "Rahasia@dariku", "Rahasia%dariku", "Rahasia:dariku"),
    *("Rahasia[dariku", "Rahasia]dariku", "Rahasia dariku", "Rahasia+dariku", "Rahasia&dariku", "Rahasia=dariku"),
    *(
        "?Rahasiadariku",
        "/Rahasiadariku",
        "#Rahasiadariku",
        "Rahasiadariku@",
        "Rahasia?tls=dariku",
        "Rahasia?rate=dariku",
    ),
    *("Rahasia?weight=dariku", "Rahasia?db=dariku", "Rahasia,dariku", "Rahasia;dariku", "Rahasia\\dariku"),
    *("Rahasia\u2100dariku", "Rahasiadariku/1?tls=x", "Rahasia@dariku?x=1", "1/Rahasia?dariku", "12?Rahasiadariku#"),
)
READERS: dict[str, Callable[[Mapping[str, str]], object]] = {
    "KURIR_SMTP_URL": read_email,
    "KURIR_SMTP_SERVERS": read_email,
    "KURIR_PUBLIC_URL": read_email,
    "KURIR_REDIS_URL": read_ingest,
    "KURIR_LOGGER_URL": read_ingest,
    "KURIR_EMAIL_SENDER_URL": read_ingest,
    "KURIR_QISCUS_URL": read_whatsapp,
    "KURIR_META_URL": lambda env: read_whatsapp({**env, "KURIR_WHATSAPP_PROVIDER": "meta"}),
}
PIECES = ("Rahasia", "dariku", "ahasi", "arik")


def _quotes(text: str) -> list[str]:
    return [piece for piece in PIECES if piece.lower() in text.lower()]


def _problems(read: Callable[[Mapping[str, str]], object], env: Mapping[str, str]) -> str:
    try:
        read(env)
    except SettingsError as error:
        return "\n".join(error.problems)
    return ""


def _refusal(action: Callable[[], object]) -> str:
    """Return the message of a refusal and everything that its traceback would print; "" if there is no refusal."""
    try:
        action()
    except (SettingsError, ValueError) as refused:
        return "".join(traceback.format_exception(refused)).rpartition("Error: ")[2]
    return ""


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_server_url_has_the_intended_password_or_is_refused_with_a_hint(password: str) -> None:
    """A literal password either works or its URL is refused; a percent-encoded one always works."""
    url = f"smtp://user:{password}@mail.example.com:587"
    refusal = _refusal(lambda: parse_server(url))
    assert not _quotes(refusal)
    assert "%3F" in refusal or parse_server(url).password == password
    assert parse_server(f"smtp://user:{quote(password, safe='')}@mail.example.com:587").password == password


@pytest.mark.parametrize("password", PASSWORDS)
def test_no_problem_of_any_service_quotes_a_password(password: str) -> None:
    """This holds for every URL setting in every service that reads it."""
    for name, read in READERS.items():
        for scheme in ("smtp", "redis", "redis+sentinel", "unix", "https", ""):
            for host in ("host:1", "one:1,two:2/svc", "host:port", ""):
                url = f"{scheme}://user:{password}@{host}"
                assert not _quotes(_problems(read, {name: url})), (name, url)
                assert not _quotes(_problems(read, {name: f"{url},{url}"})), (name, url)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("host", ["host:6379/0", "host", "host:6379/0?socket_timeout=Rahasia", "host/0?Rahasia=dariku"])
def test_redis_gets_the_intended_password_or_no_connection(password: str, host: str) -> None:
    """The driver would treat the rest of a truncated password as an option, and quote it in its first error."""
    url = f"redis://user:{password}@{host}"
    refusal = _refusal(lambda: connect(url))
    assert not _quotes(refusal)
    assert "%3F" in refusal or connect(url).connection_pool.connection_kwargs["password"] == password
    encoded = f"redis://user:{quote(password, safe='')}@host:6379/0"
    assert connect(encoded).connection_pool.connection_kwargs["password"] == password
    apart = EnvReader({"KURIR_REDIS_URL": "redis://user@host:6379/0", "KURIR_REDIS_PASSWORD": password})
    assert read_redis_url(apart) == encoded


@pytest.mark.parametrize("password", PASSWORDS)
def test_logs_and_tracebacks_hide_everything_before_the_last_at_sign(password: str) -> None:
    """This includes errors of libraries whose message has the URL."""
    for url in (
        f"redis://user:{password}@host:6379/0",
        f"smtp://:{password}@host",
        f"redis+sentinel://:{password}@a,b/svc",
    ):
        if " " not in password:
            assert not _quotes(mask(f"ValueError: cannot use {url!r}"))
            assert not _quotes(mask(f"connecting to {url} failed"))
        assert not _quotes(without_password(url))


def test_a_url_without_a_password_is_shown_whole() -> None:
    """The log should show the queue's address."""
    assert without_password("redis://localhost:6379/0") == "redis://localhost:6379/0"
    assert mask("GET https://example.com/a?b=c") == "GET https://example.com/a?b=c"


def test_ports_and_options_are_checked_before_anything_is_started() -> None:
    """The problem names the setting."""
    for url in ("redis://host:99999", "redis://host:x", "redis://[host", "host:6379", "redis://host#x"):
        assert _problems(read_whatsapp, {"KURIR_REDIS_URL": url}).startswith("KURIR_REDIS_URL")


def test_a_traceback_before_logging_is_configured_shows_no_values(tmp_path: Path) -> None:
    """Before logging is configured, structlog would show the variables of each frame, and with them a URL."""
    script = tmp_path / "service.py"
    script.write_text(
        "from shared.lifecycle import run_service\n"
        "async def main(stop):\n"
        "    url = 'redis://user:Rahasia?dariku@host:6379/0'\n"
        "    raise RuntimeError(f'cannot use {url}')\n"
        "run_service('test', main)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "RuntimeError: cannot use redis://" in ran.stdout + ran.stderr
    assert not _quotes(ran.stdout + ran.stderr)
