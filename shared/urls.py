"""URLs that may have a password: splitting them, and showing them without it.

A `?`, `#` or `/` in a password ends the host part early: the rest of the password becomes a path or an option, and a
message that quotes those reveals it. So errors here never quote a URL or a part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

_SEVERAL_HOSTS = frozenset({"postgresql", "postgres"})
ENCODE_HINT = "in a user name or password write % as %25, / as %2F, ? as %3F, # as %23, @ as %40 and , as %2C"


def split_url(url: str, schemes: Sequence[str], form: str) -> SplitResult:
    """Split a URL whose ports are numbers or missing; raises ValueError with the `form` that it should have.

    A scheme of Sentinel, of a cluster or of PostgreSQL allows several hosts, separated by commas. An `@` after the host
    comes from a password that is not percent-encoded; it is refused with a hint.
    """
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        several = "+" in parts.scheme or parts.scheme in _SEVERAL_HOSTS
        ports = [urlsplit(f"//{one}").port for one in (hosts.split(",") if several else [hosts])]
        # text that cannot be decoded has a literal %
        fits = parts.scheme in schemes and 0 not in ports and "\ufffd" not in unquote(parts.netloc)
    except ValueError:  # its message quotes the URL
        fits = False
    if not fits:
        raise ValueError(_wanted(url, form)) from None
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        raise ValueError(_wanted(url, form))
    return parts


def http_url(url: str) -> str:
    """Return an http URL without a trailing slash; raises ValueError for another URL or one with a password."""
    form = "http(s)://host[:port][/path], without a user, query or fragment"
    parts = split_url(url, ("http", "https"), form)
    if not parts.hostname or parts.query or "@" in parts.netloc:
        raise ValueError(f"it must be {form}")
    return url.rstrip("/")


def host_of(url: str) -> str:
    """Return the host of a URL without its port, "" for a URL without a host or an invalid one."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def without_password(url: str) -> str:
    """Return a URL for a log line, with stars instead of its password and of passwords among its options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that cannot be read)"
    if not parts.netloc or "@" in parts.path + parts.query + parts.fragment:
        return f"{parts.scheme}://(not shown)"
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    options = [one.partition("=") for one in parts.query.split("&") if one]
    shown = "&".join(f"{key}={'***' if 'password' in key else value}" for key, _, value in options)
    shown_user = f"{name}:***" if colon else "***" if at else ""
    return f"{parts.scheme}://{shown_user}{at}{hosts}{parts.path}{'?' if shown else ''}{shown}"


def _wanted(url: str, form: str) -> str:
    return f"it must be {form}" + (f"; {ENCODE_HINT}" if "@" in url else "")
