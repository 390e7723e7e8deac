"""URLs that may hold a password: how they are taken apart, and how they are named without it.

A password with `?`, `#` or `/` in it ends the address early: the rest of it becomes a path or an option, and a
message that quotes those gives it away. So nothing here ever quotes a URL or a piece of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

ENCODE_HINT = "in a user name or password write % as %25, / as %2F, ? as %3F, # as %23, @ as %40 and , as %2C"


def split_url(url: str, schemes: Sequence[str], form: str) -> SplitResult:
    """Take a URL apart whose ports are numbers or missing; raises ValueError that names the `form` it should have.

    With a scheme of Sentinel there may be several hosts, by commas. An `@` behind the host belongs to a password that
    was not percent-encoded, and is refused with a hint.
    """
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        ports = [urlsplit(f"//{one}").port for one in (hosts.split(",") if "+" in parts.scheme else [hosts])]
        # what is no text once it is decoded had a % of its own
        fits = parts.scheme in schemes and 0 not in ports and "\ufffd" not in unquote(parts.netloc)
    except ValueError:  # its words quote the URL
        fits = False
    if not fits:
        raise ValueError(_wanted(url, form)) from None
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        raise ValueError(_wanted(url, form))
    return parts


def http_url(url: str) -> str:
    """Return an http URL without a slash at its end; raises ValueError where it is none, or holds a password."""
    form = "http(s)://host[:port][/path], without a user, query or fragment"
    parts = split_url(url, ("http", "https"), form)
    if not parts.hostname or parts.query or "@" in parts.netloc:
        raise ValueError(f"it must be {form}")
    return url.rstrip("/")


def host_of(url: str) -> str:
    """Return the host of a URL without its port, "" where it has none, or is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def without_password(url: str) -> str:
    """Return a URL fit for a log line: without its password, and without passwords among its options."""
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
