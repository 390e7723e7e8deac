"""Client addresses: where a request really comes from, and whether it may be served without an API key.

Behind a proxy, the client's address is in X-Forwarded-For; only the entries of trusted proxies are believed. Where no
key is configured, only programs on this machine are served. A browser on this machine is the remaining way in: a
foreign page may post to loopback, by its own host name (DNS rebinding) or with a form. So a foreign Host or Origin is
refused too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache

from shared.urls import host_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_FORWARDING = ("forwarded", "x-forwarded-", "x-real-ip", "via")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the client's address: the last in X-Forwarded-For that is not a trusted proxy's.

    `forwarded_for` are the header's values in order. A peer that is not trusted is itself the client.
    """
    if not trusted or not _within(peer, trusted):
        return peer
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",") if hop.strip()]
    client = peer
    for hop in reversed(hops):
        if _parse(hop) is None:
            break
        client = hop
        if not _within(hop, trusted):
            break
    return client


def charged_address(client: str) -> str:
    """Return what an address's requests are charged to: for IPv6 its /64, which one customer usually has whole."""
    address = _parse(client)
    if not isinstance(address, ipaddress.IPv6Address):
        return client if address is None else str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def refusal(peer: str, headers: Mapping[str, str]) -> str:
    """Return why a request may not be served where no API key is configured, "" where it may."""
    if not _is_loopback(peer):
        return "no API key is configured, so only clients on this machine are served; set KURIR_API_KEYS"
    if any(name.lower().startswith(_FORWARDING) for name in headers):
        return "no API key is configured, so requests through a proxy are refused; set KURIR_API_KEYS"
    host = headers.get("Host", "")
    if _host_name(host) not in _LOCAL_NAMES:
        return "no API key is configured, so only requests to localhost are served; set KURIR_API_KEYS"
    origin = headers.get("Origin")
    if origin is not None and origin.lower() not in {f"http://{host}".lower(), f"https://{host}".lower()}:
        return "no API key is configured, so requests from other web pages are refused; set KURIR_API_KEYS"
    return ""


@lru_cache(64)
def _host_name(host: str) -> str:
    return host_of(f"//{host}")


@lru_cache(64)
def _is_loopback(peer: str) -> bool:
    address = _parse(peer)
    return address is not None and address.is_loopback


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else address


def _within(text: str, networks: Sequence[Network]) -> bool:
    address = _parse(text)
    return address is not None and any(address in network for network in networks)
