"""Settings of bounce mail: what they take, and that no message repeats a password."""

from __future__ import annotations

import pytest

from services.receipts.mail.imap import folder_name
from services.receipts.mail.settings import BounceSettings, parse_mailbox_url, read_bounce_settings
from shared.errors import SettingsError
from shared.settings import EnvReader

SECRET = {"KURIR_SECRET": "a secret of the tests"}


def read(**env: str) -> BounceSettings:
    reader = EnvReader({**SECRET, **env})
    settings = read_bounce_settings(reader)
    reader.finish()
    return settings


def test_nothing_is_on_by_default() -> None:
    """Without settings there is no listener and no mailbox, and no secret is asked for."""
    reader = EnvReader({})
    assert read_bounce_settings(reader) == BounceSettings("")
    reader.finish()


def test_mailbox_url() -> None:
    """User and password are decoded; folder, port and options have defaults."""
    full = parse_mailbox_url("imaps://b%40example.com:p%2Fw@mail.example.com:9993/Bounces/New?then=delete&every=2m")
    assert (full.username, full.password, full.host, full.port) == ("b@example.com", "p/w", "mail.example.com", 9993)
    assert (full.folder, full.delete, full.every_s, full.tls) == ("Bounces/New", True, 120.0, "implicit")
    least = parse_mailbox_url("imaps://b:p@mail.example.com")
    assert (least.port, least.folder, least.delete, least.every_s) == (993, "INBOX", False, 30.0)


@pytest.mark.parametrize(
    ("url", "tls"),
    [("imap://b:p@mail.example.com/", "required"), ("imap://b:p@127.0.0.1/", "if-offered")],
)
def test_password_leaves_the_machine_encrypted_alone(url: str, tls: str) -> None:
    """Over imap:// STARTTLS is required, except on this machine."""
    assert parse_mailbox_url(url).tls == tls


@pytest.mark.parametrize(
    "url",
    [
        "pop3://b:hush@mail.example.com",
        "imaps://mail.example.com",
        "imaps://b@mail.example.com",
        "imaps://b:hush@",
        "imaps://b:hush@mail.example.com:0/",
        "imaps://b:hu#sh@mail.example.com/",
        "imaps://b:hush@mail.example.com/?then=burn",
        "imaps://b:hush@mail.example.com/?then=seen&foo=1",
        "imaps://b:hush@mail.example.com/?every=0s",
        "imaps://b:hush@mail.example.com/?every=2h",
    ],
)
def test_url_that_cannot_be_one_is_a_problem_without_its_password(url: str) -> None:
    """The message says what is wrong and repeats nothing of the URL."""
    with pytest.raises(SettingsError, match="KURIR_BOUNCE_IMAP_URL") as refused:
        read(KURIR_BOUNCE_IMAP_URL=url)
    assert "hu" not in str(refused.value).replace("must", "")


def test_listener_needs_its_domain() -> None:
    """A port without a domain would take mail for nobody."""
    with pytest.raises(SettingsError, match="KURIR_BOUNCE_DOMAIN"):
        read(KURIR_BOUNCE_SMTP_PORT="3041")
    assert read(KURIR_BOUNCE_SMTP_PORT="3041", KURIR_BOUNCE_DOMAIN="bounces.example.com").smtp_port == 3041


def test_secret_is_required_where_bounces_come_in() -> None:
    """Without it no return path could be read."""
    reader = EnvReader({"KURIR_BOUNCE_DOMAIN": "bounces.example.com"})
    read_bounce_settings(reader)
    with pytest.raises(SettingsError, match="KURIR_SECRET"):
        reader.finish()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("INBOX", "INBOX"),
        ("Entwürfe", "Entw&APw-rfe"),
        ("台北", "&U,BTFw-"),
        ("A & B", "A &- B"),
        ('say "hi"\\', 'say \\"hi\\"\\\\'),
        ("&ü", "&-&APw-"),
    ],
)
def test_folder_names_are_written_in_modified_utf_7(name: str, written: str) -> None:
    """RFC 3501, 5.1.3, with the quoting of a quoted string."""
    assert folder_name(name) == written
