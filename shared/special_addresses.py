"""Special addresses: those that a request made for a stranger must not reach, and what an operator opens.

A webhook's URL is written by a client, but the request leaves from inside the operator's network. So it may only reach
public unicast addresses: IANA's special-purpose registries (RFC 6890) list the others. IPv6 addresses that carry an
IPv4 address are judged by it (IPv4-mapped, NAT64) or refused as a whole (6to4, Teredo, ISATAP, IPv4-compatible), since
a relay would pass them on to it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from shared.hosts import Address, is_host_name
from shared.settings import EnvReader

ALLOW = "KURIR_WEBHOOK_ALLOW"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# the first that contains an address names it, so parts come before the wholes that contain them
_SPECIAL_4 = (
    ("0.0.0.0/32", "the unspecified address"),
    ("0.0.0.0/8", "an address of this network"),
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "a shared address behind a carrier's NAT"),
    ("127.0.0.0/8", "a loopback address"),
    ("168.63.129.16/32", "the address of Azure's platform services"),
    ("169.254.169.254/32", "the address of cloud metadata services"),
    ("169.254.0.0/16", "a link-local address"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "an address of IETF protocols"),
    ("192.0.2.0/24", "an address for documentation"),
    ("192.31.196.0/24", "an address of AS112"),
    ("192.52.193.0/24", "an address of AMT relays"),
    ("192.88.99.0/24", "an address of 6to4 relays"),
    ("192.168.0.0/16", "a private address"),
    ("192.175.48.0/24", "an address of AS112"),
    ("198.18.0.0/15", "an address for benchmarks"),
    ("198.51.100.0/24", "an address for documentation"),
    ("203.0.113.0/24", "an address for documentation"),
    ("224.0.0.0/4", "a multicast address"),
    ("255.255.255.255/32", "the broadcast address"),
    ("240.0.0.0/4", "a reserved address"),
)
_SPECIAL_6 = (
    ("::/128", "the unspecified address"),
    ("::1/128", "a loopback address"),
    ("::/96", "an IPv4-compatible address"),
    ("::ffff:0:0:0/96", "an IPv4-translated address"),
    ("64:ff9b:1::/48", "an address of a local NAT64"),
    ("100::/64", "an address that discards"),
    ("2001::/32", "a Teredo address"),
    ("2001:db8::/32", "an address for documentation"),
    ("2001::/23", "an address of IETF protocols"),
    ("2002::/16", "a 6to4 address"),
    ("2620:4f:8000::/48", "an address of AS112"),
    ("3fff::/20", "an address for documentation"),
    ("5f00::/16", "an address of segment routing"),
    ("fc00::/7", "a private address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("ff00::/8", "a multicast address"),
)
_SPECIAL: dict[int, tuple[tuple[Network, str], ...]] = {
    4: tuple((ipaddress.IPv4Network(network), words) for network, words in _SPECIAL_4),
    6: tuple((ipaddress.IPv6Network(network), words) for network, words in _SPECIAL_6),
}
# everything that IANA has given out as global unicast is in here (RFC 4291, 2.4)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# the upper half of an interface identifier that a site's router turns into an IPv4 address (RFC 5214, 6.1)
_ISATAP, _ISATAP_MASK = 0x00005EFE, 0xFDFFFFFF
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NUMERIC = re.compile(r"[0-9a-fA-FxX]+(\.[0-9a-fA-FxX]+){0,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The special addresses that the operator opens: whole networks, and host names wherever they resolve to."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    def covers(self, address: Address) -> bool:
        """Return whether an address is in an opened network; an IPv4-mapped one counts as its IPv4 address."""
        plain = _unmapped(address)
        return any(plain.version == network.version and plain in network for network in self.networks)

    def covers_host(self, host: str) -> bool:
        """Return whether a URL's host is an opened name, or an address in an opened network."""
        address = literal(host)
        return self.covers(address) if address is not None else _plain(host) in self.hosts


NOTHING_ALLOWED = Allowed()


def read_allowed(env: EnvReader) -> Allowed:
    """Read the networks, addresses and host names of KURIR_WEBHOOK_ALLOW; reports every other item."""
    networks: list[Network] = []
    hosts: list[str] = []
    for item in env.items(ALLOW):
        try:
            network = _read_network(item)
        except ValueError as error:
            env.problem(f"{ALLOW}: {error}")
            continue
        if network is None:
            hosts.append(_plain(item))
        else:
            networks.append(network)
    return Allowed(tuple(networks), frozenset(hosts))


def _read_network(item: str) -> Network | None:
    """Return a network or address, None for a host name; raises ValueError with words for the operator."""
    if is_host_name(_plain(item)):
        return None
    try:
        network = ipaddress.ip_network(item.strip("[]"))
    except ValueError as error:
        hint = "" if "host bits" not in str(error) else f"; do you mean {ipaddress.ip_network(item, strict=False)}?"
        raise ValueError(f"{item[:80]!r} is not a network, an address or a host name{hint}") from None
    if network.version == 6 and network.subnet_of(_MAPPED):
        raise ValueError(f"{item!r} is IPv4 written as IPv6; write it as IPv4")
    return network


def refusal(address: str | Address, allowed: Allowed = NOTHING_ALLOWED) -> str | None:
    """Return why no request may be sent to an address, as "10.0.0.5 is a private address"; None if it may.

    Raises ValueError for a text that is not an address.
    """
    judged = ipaddress.ip_address(address) if isinstance(address, str) else address
    if allowed.covers(judged):
        return None
    words = _special_words(judged)
    return words and f"{judged} is {words}"


def refusals(addresses: Sequence[str], allowed: Allowed = NOTHING_ALLOWED) -> str | None:
    """Return the first refusal among a name's addresses.

    One special address refuses all of them: the resolver chooses which of them is connected to.
    """
    return next((words for address in addresses if (words := refusal(address, allowed))), None)


def host_refusal(host: str, allowed: Allowed = NOTHING_ALLOWED) -> str | None:
    """Return why no request may be sent to a URL's host, as far as its form says; None for a name to be looked up."""
    if allowed.covers_host(host):
        return None
    address = literal(host)
    if address is not None:
        return refusal(address, allowed)
    name = _plain(host)
    return f"{name} is this machine" if name == "localhost" or name.endswith(".localhost") else None


def literal(host: str) -> Address | None:
    """Return the address that a URL's host is, read as resolvers read it; None for a name.

    IPv4 addresses may be written with fewer than four parts, in decimal, octal or hexadecimal (127.1, 0x7f000001):
    inet_aton(3) takes all of these.
    """
    text = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    text = text.removesuffix(".")
    if not _NUMERIC.fullmatch(text):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


def _special_words(address: Address) -> str | None:
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return "an address of one network interface"
        if address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
            words = _special_words(embedded)
            return words and f"NAT64 for {embedded}, {words}"
    plain = _unmapped(address)
    for network, words in _SPECIAL[plain.version]:
        if plain in network:
            return words
    if plain.version == 6 and (int(plain) >> 32) & _ISATAP_MASK == _ISATAP:
        return "an ISATAP address"
    if plain.version == 6 and plain not in _GLOBAL_UNICAST:
        return "a reserved address"
    return None


def _unmapped(address: Address) -> Address:
    """Return the IPv4 address that the kernel connects to for an IPv4-mapped one."""
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _plain(host: str) -> str:
    return host.removesuffix(".").lower()
