"""Which URLs a webhook may have, before anything is looked up."""

from __future__ import annotations

import pytest

from shared.settings import EnvReader
from shared.special_addresses import Allowed, read_allowed
from shared.webhook_urls import check_url


def allowed(text: str) -> Allowed:
    return read_allowed(EnvReader({"KURIR_WEBHOOK_ALLOW": text}))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/webhook?token=abc",
        "https://example.com:8443/",
        "https://münchen.example/",
        "https://example.com./",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/",
        "HTTPS://EXAMPLE.COM/",
    ],
)
def test_public_https_url_is_fine(url: str) -> None:
    """At its usual ports, by name or public address."""
    assert check_url(url) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "such as"),
        ("example.com", "such as"),
        ("//example.com/", "such as"),
        ("https://", "such as"),
        ("https:///webhook", "such as"),
        ("ftp://example.com/", "such as"),
        ("file:///etc/passwd", "such as"),
        ("gopher://example.com/", "such as"),
        ("https://[::1", "such as"),
        ("https://example.com:0/", "such as"),
        ("https://example.com:99999/", "such as"),
        ("https://example.com\\@10.0.0.5/", "such as"),
        ("http://example.com/", "https"),
        ("https://user:secret@example.com/", "user name"),
        ("https://:secret@example.com/", "user name"),
        ("https://example.com/#top", "fragment"),
        ("https://example.com/a b", "percent-encode"),
        ("https://example.com/\r\nHost: x", "percent-encode"),
        ("https://example.com/" + "a" * 2000, "2,000"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:6379/", "port 6379"),
        ("https://127%2e0.0.1/", "not a host name"),
        ("https://exa_mple.com/", "not a host name"),
        ("https://-.com/", "not a host name"),
        ("https://1.2.3.4.5/", "not a host name"),
        ("https://localhost/", "this machine"),
        ("https://app.localhost/", "this machine"),
        ("https://10.0.0.5/", "private"),
        ("https://[fd00::1]/", "private"),
        ("https://[fe80::1%25eth0]/", "one network interface"),
        ("https://①②⑦.⓪.⓪.①/", "loopback"),
        ("https://127。0。0。1/", "loopback"),
        ("https://127.1/", "127.0.0.1; write it so"),
        ("https://0x7f.1/", "127.0.0.1; write it so"),
        ("https://16843009/", "1.1.1.1; write it so"),
    ],
)
def test_other_url_is_refused_with_words(url: str, words: str) -> None:
    """Each with what is wrong, and none with the URL's path or query, which may have a token."""
    problem = check_url(url)
    assert problem is not None
    assert words in problem
    assert "secret" not in problem.replace("a secret signs", "")


def test_operator_opens_hosts_for_http_and_any_port() -> None:
    """What the operator runs in their own network needs no certificate; nothing else is opened by it."""
    opened = allowed("10.0.0.0/8, localhost, app.lan")
    for url in ("http://10.1.2.3:8080/x", "http://localhost:3000/", "http://app.lan/", "https://app.lan:9000/"):
        assert check_url(url, opened) is None
    for url in ("http://127.0.0.1:3000/", "http://app.lan.example.com/", "https://192.168.0.1/", "https://x.com:9000/"):
        assert check_url(url, opened) is not None
    assert check_url("http://user@app.lan/", opened) is not None
    assert check_url("http://10.1/", opened) == "its host is the address 10.0.0.1; write it so"


@pytest.mark.parametrize("url", ["http://bücher.lan/", "http://BÜCHER.lan.:8080/", "http://xn--bcher-kva.lan/"])
def test_operator_opens_a_name_with_other_letters(url: str) -> None:
    """By the form that DNS has, however the URL writes it."""
    assert check_url(url, allowed("xn--bcher-kva.lan")) is None
    assert check_url(url, allowed("bcher.lan")) is not None
