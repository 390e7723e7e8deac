"""Values that would do harm without an error: each is a problem that names its variable and says what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from services.email_sender.settings import read_settings as read_email
from services.ingest.settings import read_settings as read_ingest
from services.logger.settings import read_settings as read_logger
from services.webhook_sender.settings import read_settings as read_webhook
from services.whatsapp_sender.settings import read_settings as read_whatsapp
from shared.errors import SettingsError

ENV = {
    "KURIR_PUBLIC_URL": "https://kurir.example.com",
    "KURIR_EMAIL_FROM": "a@example.com",
    "KURIR_SMTP_URL": "smtp://127.0.0.1",
    "KURIR_SMTP_HELO": "mail.example.com",
    "KURIR_SECRET": "s" * 32,
    "KURIR_INTERNAL_SECRET": "i" * 32,
    "KURIR_QISCUS_APP_CODE": "app",
    "KURIR_QISCUS_CHANNEL_ID": "1",
    "KURIR_QISCUS_SECRET_KEY": "secret",
}
Read = Callable[[Mapping[str, str]], object]


def problems(read: Read, **changes: str) -> list[str]:
    """Return the problems of an environment."""
    with pytest.raises(SettingsError) as wrong:
        read({**ENV, **changes})
    return list(wrong.value.problems)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("KURIR_SMTP_CONNECT_TIMEOUT", read_email),
        ("KURIR_SMTP_COMMAND_TIMEOUT", read_email),
        ("KURIR_SMTP_DATA_TIMEOUT", read_email),
        ("KURIR_STUCK_AFTER", read_email),
        ("KURIR_STUCK_AFTER", read_whatsapp),
        ("KURIR_BODY_TIMEOUT", read_ingest),
        ("KURIR_HEADER_TIMEOUT", read_ingest),
        ("KURIR_INCOMPLETE_AFTER", read_ingest),
    ],
)
@pytest.mark.parametrize("zero", ["0", "0s", "0ms"])
def test_a_duration_that_nothing_could_keep_is_refused(name: str, read: Read, zero: str) -> None:
    """With 0 each answer would come too late: every message would be uncertain and sent twice."""
    (problem,) = problems(read, **{name: zero})
    assert problem.startswith(f"{name}: it must be longer than 0 s, such as ")


@pytest.mark.parametrize("read", [read_whatsapp, read_webhook])
def test_a_send_within_its_time_outs_never_ends_its_sender(read: Callable[[Mapping[str, str]], object]) -> None:
    """However short KURIR_STUCK_AFTER is, a sender waits as long as its provider may take."""
    slow = {"KURIR_QISCUS_TIMEOUT": "5m", "KURIR_WEBHOOK_TIMEOUT": "5m", "KURIR_STUCK_AFTER": "10s"}
    found = read({**ENV, **slow})
    assert found.sending.stuck_after_s > 300  # type: ignore[attr-defined] # both have it


@pytest.mark.parametrize("read", [read_ingest, read_logger])
@pytest.mark.parametrize("region", ["UK", "XX", "\u00c4\u00d6", "62", "IDN", "Indonesia"])
def test_a_country_that_has_no_numbers_is_refused(read: Read, region: str) -> None:
    """With an unknown country every number without a country code would be invalid."""
    (problem,) = problems(read, KURIR_DEFAULT_REGION=region)
    assert problem.startswith(f"KURIR_DEFAULT_REGION: {region.upper()!r} is not a two-letter country code such as ID")
    assert ("the United Kingdom is GB" in problem) == (region == "UK")


@pytest.mark.parametrize("read", [read_ingest, read_email])
def test_a_misspelt_channel_of_the_sandbox_is_refused(read: Read) -> None:
    """It would make a system that tests with the sandbox take mail as real."""
    (problem,) = problems(read, KURIR_SANDBOXED="emial,whatsapp")
    assert problem == "KURIR_SANDBOXED: 'emial' is unknown; use email, whatsapp, or several of them"


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/proc/1/root/x/" + "y" * 300])
def test_a_path_that_cannot_be_read_is_a_problem(path: str) -> None:
    """A name that is too long, or a folder that is closed to us, raises another error than a missing file."""
    (problem,) = problems(read_logger, KURIR_BACKUP_DIR=path)
    assert problem.startswith("KURIR_BACKUP_DIR: /")
    (problem,) = problems(read_logger, KURIR_REDIS_URL="rediss://localhost", KURIR_REDIS_CA_FILE=path)
    assert problem.startswith("KURIR_REDIS_CA_FILE: the file /")


def test_a_file_whose_name_is_not_utf8_is_named_as_a_problem(tmp_path: Path) -> None:
    """It becomes a part of Redis's URL: the service ended with a traceback."""
    path = f"{tmp_path}/\udcff.pem"
    (problem,) = problems(read_ingest, KURIR_REDIS_URL="rediss://h", KURIR_REDIS_CA_FILE=path)
    assert "does not exist" in problem
    Path(path).touch()
    (problem,) = problems(read_ingest, KURIR_REDIS_URL="rediss://h", KURIR_REDIS_CA_FILE=path)
    assert problem == "KURIR_REDIS_CA_FILE: the file's name is not UTF-8: rename it"
