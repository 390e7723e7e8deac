"""Host names: whether they are fully qualified, and whether the whole internet can resolve them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_LONGEST_NAME = 253
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
# RFC 6761, RFC 6762, RFC 7686, RFC 8375, and names that networks use behind their own resolvers
_PRIVATE_ENDINGS = frozenset({
    "arpa", "corp", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost", "onion",
    "private", "test",
})  # fmt: skip

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_host_name(name: str) -> bool:
    """Return whether a text is a host name in ASCII (RFC 1123, 2.1) with one label or more."""
    labels = name.split(".")
    return (
        len(name) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdecimal()
    )  # RFC 3696, 2: a last label of digits is an IP address


def is_fully_qualified(name: str) -> bool:
    """Return whether a text is a host name with a domain."""
    return "." in name and is_host_name(name)


def is_public(host: str) -> bool:
    """Return whether a host is a public name or address, judged only by its form."""
    address = as_address(host)
    if address is not None:
        return address.is_global
    return is_fully_qualified(host) and host.rpartition(".")[2].lower() not in _PRIVATE_ENDINGS


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself."""
    address = as_address(host)
    return address.is_loopback if address is not None else host.lower().rstrip(".") == "localhost"


def as_address(host: str) -> Address | None:
    """Return an IP address, or None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def public_url_problem(url: str) -> str:
    """Return why links in mail to this URL cannot reach this system, or "" if they can.

    RFC 8058, 3.1 requires one-click links to be https. Private names and addresses cannot be reached from outside.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "it is not a URL"
    if not url:
        return "it is not set"
    if parts.scheme != "https":
        return "it does not begin with https://"
    return "" if is_public(host) else f"{host or 'no host'} cannot be reached from the internet"
