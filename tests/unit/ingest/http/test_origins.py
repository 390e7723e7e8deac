"""Origins: which requests with the console's cookie come from the console itself."""

from __future__ import annotations

import pytest

from services.ingest.http.origins import is_foreign

_HOST = {"Host": "kurir.lan:3000"}
_PUBLIC = "https://kurir.example.com/path"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://kurir.lan:3000"},
        {"Origin": "https://KURIR.lan:3000"},
        {"Origin": "https://kurir.example.com"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://name-behind-a-proxy.example"},
    ],
)
def test_the_console_may_change_something(headers: dict[str, str]) -> None:
    """Browsers name the origin; behind a proxy that changes Host, KURIR_PUBLIC_URL or Sec-Fetch-Site decides."""
    assert not is_foreign("POST", _HOST | headers, _PUBLIC)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://kurir.lan:8080"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": ""},
        {"Origin": "null"},
        {"Origin": "http://kurir.lan:8080"},
        {"Origin": "http://kurir.lan"},
        {"Origin": "https://kurir.example.com.evil.example"},
        {"Origin": "http://evil.example"},
    ],
)
def test_another_page_may_change_nothing(method: str, headers: dict[str, str]) -> None:
    """Another site, another port of the same host, a sandboxed frame and a request that names no origin are refused."""
    assert is_foreign(method, _HOST | headers, _PUBLIC)


def test_reading_needs_no_proof_but_no_other_page_may_read() -> None:
    """Browsers send no Origin with a GET, and a typed address is the user's own wish."""
    assert not is_foreign("GET", _HOST, "")
    assert not is_foreign("GET", _HOST | {"Sec-Fetch-Site": "none"}, "")
    assert is_foreign("GET", _HOST | {"Sec-Fetch-Site": "same-site"}, "")
    assert is_foreign("GET", _HOST | {"Origin": "http://evil.example"}, "")
