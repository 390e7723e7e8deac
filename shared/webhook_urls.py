"""What the URL of a webhook must be: judged by its form alone, before anything is looked up or connected to."""

from __future__ import annotations

from yarl import URL

from shared.hosts import is_host_name
from shared.special_addresses import ALLOW, NOTHING_ALLOWED, Allowed, host_refusal, literal

LONGEST_URL = 2000
# https, its usual alternative, and http where it is allowed
PORTS = (443, 80, 8443)


def check_url(url: str, allowed: Allowed = NOTHING_ALLOWED) -> str | None:
    """Return why a URL cannot be a webhook's, None if it can; the words quote no path and no query.

    What `allowed` covers may be http, at any port, and a special address. The URL is read as the sender reads it, so
    both see the same host.
    """
    parts = _read(url)
    if isinstance(parts, str):
        return parts
    host = parts.host or ""
    if parts.raw_user is not None or parts.raw_password is not None:
        return "it must not have a user name or password; a secret signs what is sent"
    if parts.raw_fragment:
        return "it must not have a fragment (#…), which is never sent"
    # an operator writes names as DNS has them, and connections are made by these
    opened = allowed.covers_host(host) or allowed.covers_host(parts.raw_host or "")
    return _host_problem(parts, host) or (None if opened else _closed_problem(parts, host))


def _read(url: str) -> URL | str:
    """Return a URL in its parts, or why it cannot be read."""
    if len(url) > LONGEST_URL:
        return f"it has {len(url):,} characters; at most {LONGEST_URL:,} are allowed"
    if not url.isprintable() or " " in url:
        return "it has spaces or control characters; percent-encode them"
    try:
        parts = URL(url)
        fits = parts.scheme in {"http", "https"} and bool(parts.host) and parts.port != 0
    except ValueError:  # its message may quote the URL
        fits = False
    return parts if fits else "it must be a URL such as https://example.com/webhook"


def _host_problem(parts: URL, host: str) -> str | None:
    address = literal(host)
    if address is None:
        return None if is_host_name((parts.raw_host or "").removesuffix(".")) else f"{host[:80]!r} is not a host name"
    if address.version == 4 and host != str(address):
        # no other form than this is connected to: programs disagree about them
        return f"its host is the address {address}; write it so"
    return None


def _closed_problem(parts: URL, host: str) -> str | None:
    """Return why the operator has to open a URL that is well-formed, None if it needs no opening."""
    refusal = host_refusal(host)
    if refusal:
        return f"{refusal}, which webhooks cannot reach; {ALLOW} can open it"
    if parts.scheme != "https":
        return f"it must begin with https://; http is only for hosts in {ALLOW}"
    if parts.port not in PORTS:
        ports = ", ".join(map(str, PORTS))
        return f"port {parts.port} is only for hosts in {ALLOW}; use one of {ports}"
    return None
