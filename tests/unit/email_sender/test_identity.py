"""The sender's identity: EHLO, the envelope's sender, and the domains whose mail is authenticated."""

from __future__ import annotations

import socket

import pytest

from services.email_sender.dkim_keys import DkimKey, KeyRing
from services.email_sender.identity import Identity, Surroundings, find_helo
from services.email_sender.settings import read_settings
from services.ingest.blasts.addresses import read_mailbox
from services.ingest.http.errors import Problem
from shared.errors import SettingsError
from tests.unit.email_sender.keys import ed25519_key
from tests.unit.email_sender.test_settings import ENV

PUBLIC = "https://kurir.example.com"


def named(monkeypatch: pytest.MonkeyPatch, host: str, full: str = "") -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(socket, "getfqdn", lambda: full or host)


@pytest.mark.parametrize(
    ("host", "full", "around", "found"),
    [
        ("mail.example.com", "", ("", ["smtp.example.com"]), "mail.example.com"),
        ("mail", "mail.Example.com.", ("", ["smtp.example.com"]), "mail.example.com"),
        ("app.corp.internal", "", ("", ["smtp.example.com"]), "app.corp.internal"),
        ("3f2a9c", "", (PUBLIC, ["smtp.example.com"]), "kurir.example.com"),
        ("vm", "localhost.localdomain", (PUBLIC, ["smtp.example.com"]), "kurir.example.com"),
        ("pod", "pod.svc.cluster.local", (PUBLIC, ["127.0.0.1"]), "kurir.example.com"),
        ("my_laptop.example.com", "", ("http://127.0.0.1:3000", ["localhost", "::1"]), "[127.0.0.1]"),
        ("3f2a9c", "", ("http://127.0.0.1:3000", ["127.0.0.1", "smtp.example.com"]), ""),
        ("3f2a9c", "", ("http://kurir.local", ["smtp.example.com"]), ""),
        ("3f2a9c", "", ("https://192.0.2.1", ["smtp.example.com"]), ""),
    ],
)
def test_name_for_ehlo_is_found(
    host: str, full: str, around: tuple[str, list[str]], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the machine's full name, else the public URL's host, else an address if the servers are on this machine."""
    named(monkeypatch, host, full)
    public_url, servers = around
    assert find_helo(Surroundings(servers, public_url, sandboxed=False)) == found


def test_sandbox_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandboxed sender starts on any machine: a container of compose has no full name."""
    named(monkeypatch, "3f2a9c")
    assert find_helo(Surroundings(["sandbox"], "http://127.0.0.1:3000", sandboxed=True)) == "[127.0.0.1]"


def test_machine_without_a_full_name_gets_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers refuse a container's id, so the sender does not start without a name."""
    named(monkeypatch, "3f2a9c")
    env = {**ENV, "KURIR_PUBLIC_URL": "http://127.0.0.1:3000"}
    with pytest.raises(SettingsError, match=r"KURIR_SMTP_HELO is required.*3f2a9c.*mail\.example\.com"):
        read_settings(env)
    assert read_settings({**env, "KURIR_SMTP_HELO": "mail.example.com"}).smtp.helo == "mail.example.com"


@pytest.mark.parametrize(
    ("given", "helo"),
    [
        ("Mail.Example.com", "mail.example.com"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("[2001:db8::1]", "[IPv6:2001:db8::1]"),
    ],
)
def test_name_for_ehlo_may_be_given(given: str, helo: str) -> None:
    """The setting is a full name, sent in ASCII, or an address in brackets."""
    assert read_settings({**ENV, "KURIR_SMTP_HELO": given}).smtp.helo == helo


@pytest.mark.parametrize(
    "given",
    ["mail", "two words.example", "192.0.2.1", "[192.0.2.999]", "a..b", "-a.example", "mail_1.example.com", "a.b\r\nX"],
)
def test_name_that_servers_refuse_is_a_problem(given: str) -> None:
    """The problem is reported at start-up, with an example of a correct value."""
    with pytest.raises(SettingsError, match=r"KURIR_SMTP_HELO.*fully-qualified"):
        read_settings({**ENV, "KURIR_SMTP_HELO": given})


def test_return_path_is_an_address() -> None:
    """Its domain becomes ASCII; without it the address of From is used."""
    settings = read_settings({**ENV, "KURIR_EMAIL_RETURN_PATH": "bounces@münchen.example"})
    assert settings.mail.return_path == settings.identity.return_path == "bounces@xn--mnchen-3ya.example"


@pytest.mark.parametrize(
    "given",
    ["<>", "bounces", "@example.com", "Bounces <b@example.com>", "jörg@example.com", "a b@example.com", "a@localhost",
     "a@example.com,b@example.com", "a@example.com; b@example.com"],
)  # fmt: skip
def test_return_path_that_loses_bounces_is_a_problem(given: str) -> None:
    """The empty sender is one: its bounces would reach nobody."""
    with pytest.raises(SettingsError, match="KURIR_EMAIL_RETURN_PATH"):
        read_settings({**ENV, "KURIR_EMAIL_RETURN_PATH": given})


@pytest.mark.parametrize(
    "given", ["a@example.com,b@example.com", "Shop, Inc <a@example.com>", "Shop@Home <a@example.com>"]
)
def test_sender_that_is_not_one_mailbox_is_a_problem(given: str) -> None:
    """The rest is not dropped silently, and no part of the name is taken for the address."""
    with pytest.raises(SettingsError, match=r"KURIR_EMAIL_FROM.*more than one mailbox"):
        read_settings({**ENV, "KURIR_EMAIL_FROM": given})


@pytest.mark.parametrize(
    "given", ["kurir@localhost", "kurir@mail.local", "Kurir\t<a@example.com>", '"a b"@example.com']
)
def test_sender_that_ingest_would_refuse_in_every_blast_is_a_problem(given: str) -> None:
    """The settings have the rules of requests, so that the problem shows at start-up and not with each blast."""
    assert isinstance(read_mailbox(given, "from"), Problem)
    with pytest.raises(SettingsError, match="KURIR_EMAIL_FROM"):
        read_settings({**ENV, "KURIR_EMAIL_FROM": given})


def test_unaligned_domains_are_known() -> None:
    """A key of the domain or a parent domain aligns it, or the envelope's sender does (relaxed alignment)."""
    keys = KeyRing([DkimKey("example.com", "s1", ed25519_key())])
    domains = ("example.com", "news.example.com", "example.org", "shop.example.net")
    identity = Identity("mail.example.com", "bounces@example.net", domains, keys)
    assert identity.unsigned() == ["example.org", "shop.example.net"]
    assert identity.unaligned() == ["example.org"]
    assert Identity("mail.example.com", "", domains, keys).unaligned() == []
    described = identity.describe()
    assert described["domains"] == [
        {"domain": "example.com", "signedBy": ["ed25519-sha256 s1._domainkey.example.com"], "spfAligned": False},
        {"domain": "news.example.com", "signedBy": ["ed25519-sha256 s1._domainkey.example.com"], "spfAligned": False},
        {"domain": "example.org", "signedBy": [], "spfAligned": False},
        {"domain": "shop.example.net", "signedBy": [], "spfAligned": True},
    ]
    assert described["dkimRecords"] == {"s1._domainkey.example.com": keys.keys[0].dns_record}


def test_domains_are_those_that_blasts_may_send_from() -> None:
    """They are the configured sender's domain and KURIR_EMAIL_DOMAINS, each once, in ASCII."""
    settings = read_settings({**ENV, "KURIR_EMAIL_DOMAINS": "Example.com, münchen.example"})
    assert settings.identity.domains == ("example.com", "xn--mnchen-3ya.example")
