"""API keys, client addresses, and ingest's settings."""

from __future__ import annotations

import ipaddress

import pytest

from services.ingest.api_keys import Keyring, parse_key
from services.ingest.http.client_address import client_address, refusal
from services.ingest.settings import read_settings
from shared.errors import SettingsError

SECRET = {"KURIR_INTERNAL_SECRET": "what all services know"}
KEY = "0123456789abcdef"


def test_only_the_hash_of_a_key_is_kept() -> None:
    """A key is found by its text, which no representation shows."""
    key = parse_key(f"client:{KEY}:send+read")
    ring = Keyring([key])
    assert ring.find(KEY) == key
    assert ring.find(KEY + "x") is None
    assert KEY not in repr(ring.__dict__) + repr(key)
    assert [key.allows(scope) for scope in ("send", "read", "admin")] == [True, True, False]


def test_a_key_that_reads_masked_does_not_see_recipients() -> None:
    """It reads all the same; with `read` or `admin` beside it, nothing is masked."""
    masked = parse_key(f"screen:{KEY}:send+read-masked")
    assert [masked.allows(scope) for scope in ("send", "read", "admin")] == [True, True, False]
    assert (masked.sees_recipients, masked.grants()) == (False, ["send", "read-masked"])
    for scopes, grants in (("read-masked+read", ["read"]), ("admin", ["send", "read", "admin"]), ("send", ["send"])):
        assert parse_key(f"x:{KEY}:{scopes}").grants() == grants
    assert parse_key(f"x:{KEY}:read-masked+admin").sees_recipients


def test_a_bound_key_knows_its_senders() -> None:
    """A key may be bound to addresses and domains, in any case; the key itself may contain colons."""
    key = parse_key(f"news:a:{KEY}:send@news.example.com+Boss@example.com")
    assert key.may_send_from("x@NEWS.example.com")
    assert key.may_send_from("boss@example.com")
    assert not key.may_send_from("x@example.com")
    assert Keyring([key]).find(f"a:{KEY}") == key


def test_a_bound_key_knows_its_senders_in_any_form() -> None:
    """A domain matches in Unicode and in ASCII, in both the key and the address."""
    for bound in ("münchen.de", "xn--mnchen-3ya.de", "kurir@MÜNCHEN.de"):
        key = parse_key(f"news:a:{KEY}:send@{bound}")
        assert key.may_send_from("kurir@münchen.de")
        assert key.may_send_from("Kurir@xn--mnchen-3ya.de")
        assert not key.may_send_from("kurir@munchen.de")


def test_the_domains_of_mail_are_kept_in_ascii() -> None:
    """Domains become ASCII, in KURIR_EMAIL_FROM and in the list."""
    env = {"KURIR_EMAIL_FROM": "Kurir <kurir@MÜNCHEN.de>", **SECRET}
    assert read_settings(env).mail.domains == {"xn--mnchen-3ya.de"}
    env["KURIR_EMAIL_DOMAINS"] = "münchen.de,Example.com"
    assert read_settings(env).mail.domains == {"xn--mnchen-3ya.de", "example.com"}


@pytest.mark.parametrize("text", ["x", f"a:{KEY}", "a:short:send", f"a b:{KEY}:send", f"a:{KEY}:fly", f"a:{KEY}:send@"])
def test_a_bad_key_is_named_without_its_text(text: str) -> None:
    """The message may be logged, so it never contains the key."""
    with pytest.raises(ValueError, match=r".") as raised:
        parse_key(text)
    assert KEY not in str(raised.value)


PROXIES = [ipaddress.ip_network("10.0.0.0/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.2.3.4, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["no address"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_may_name_the_client(peer: str, forwarded: list[str], client: str) -> None:
    """A client's own X-Forwarded-For header is ignored."""
    assert client_address(peer, forwarded, PROXIES) == client


@pytest.mark.parametrize(
    ("peer", "headers", "served"),
    [
        ("127.0.0.1", {"Host": "localhost:3000"}, True),
        ("::1", {"Host": "[::1]:3000"}, True),
        ("::ffff:127.0.0.1", {"Host": "127.0.0.1"}, True),
        ("127.0.0.1", {"Host": "localhost:3000", "Origin": "http://localhost:3000"}, True),
        ("192.168.1.5", {"Host": "localhost:3000"}, False),
        ("127.0.0.1", {"Host": "kurir.example.com"}, False),
        ("127.0.0.1", {"Host": "localhost:3000", "Origin": "null"}, False),
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-For": "1.2.3.4"}, False),
        ("127.0.0.1", {"Host": "localhost", "x-forwarded-port": "443"}, False),
        ("127.0.0.1", {"Host": "localhost", "Forwarded": "for=1.2.3.4"}, False),
        ("", {}, False),
    ],
)
def test_without_keys_only_programs_on_this_machine_are_served(
    peer: str, headers: dict[str, str], served: bool
) -> None:
    """Other machines, proxies and foreign web pages are refused."""
    assert (refusal(peer, headers) == "") is served


def test_settings_report_every_problem_at_once() -> None:
    """All problems are in one error, which never contains a key."""
    env = {
        "KURIR_PORT": "x", "KURIR_API_KEYS": f"a:{KEY}:fly,a:{KEY}:send", "KURIR_RATE_LIMIT": "fast",
        "KURIR_TRUSTED_PROXIES": "everybody", "KURIR_LOGGER_URL": "ftp://x", "KURIR_DEFAULT_REGION": "Indonesia",
    }  # fmt: skip
    with pytest.raises(SettingsError) as raised:
        read_settings(env)
    assert len(raised.value.problems) == 7, "the secret of the services is missing too"
    assert KEY not in str(raised.value)


def test_a_channel_is_configured_by_its_provider() -> None:
    """The sender's own domain may send unless other domains are listed."""
    settings = read_settings({"KURIR_SMTP_URL": "smtp://x", "KURIR_EMAIL_FROM": "Kurir <k@Example.com>", **SECRET})
    assert settings.configured_channels == {"email"}
    assert settings.mail.domains == {"example.com"}
