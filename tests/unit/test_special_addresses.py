"""Which addresses a webhook may not reach, however they are written, and what an operator opens."""

from __future__ import annotations

import ipaddress

import pytest

from shared.errors import SettingsError
from shared.settings import EnvReader
from shared.special_addresses import Allowed, host_refusal, literal, read_allowed, refusal, refusals

SPECIAL = {
    "0.0.0.0": "the unspecified address",
    "0.1.2.3": "this network",
    "10.0.0.5": "private",
    "10.255.255.255": "private",
    "100.64.0.1": "carrier's NAT",
    "100.100.100.200": "carrier's NAT",
    "100.127.255.255": "carrier's NAT",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "Azure",
    "169.254.169.254": "cloud metadata",
    "169.254.0.1": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "IETF protocols",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4 relays",
    "192.168.1.1": "private",
    "198.18.0.1": "benchmarks",
    "198.19.255.255": "benchmarks",
    "198.51.100.7": "documentation",
    "203.0.113.7": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "the unspecified address",
    "::1": "loopback",
    "::127.0.0.1": "IPv4-compatible",
    "::8.8.8.8": "IPv4-compatible",
    "::ffff:10.0.0.5": "private",
    "::ffff:7f00:1": "loopback",
    "::ffff:0:127.0.0.1": "IPv4-translated",
    "64:ff9b::10.0.0.5": "NAT64 for 10.0.0.5, a private address",
    "64:ff9b::169.254.169.254": "NAT64 for 169.254.169.254, the address of cloud metadata",
    "64:ff9b:1::8.8.8.8": "local NAT64",
    "100::1": "discards",
    "2001:0:808:808::1": "Teredo",
    "2001:2::1": "IETF protocols",
    "2001:20::1": "IETF protocols",
    "2001:db8::1": "documentation",
    "2002:7f00:1::1": "6to4",
    "2002:808:808::1": "6to4",
    "3fff::1": "documentation",
    "4000::1": "reserved",
    "5f00::1": "segment routing",
    "fc00::1": "private",
    "fd00:ec2::254": "private",
    "fe80::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "2606:4700::5efe:10.0.0.5": "ISATAP",
    "2606:4700:1:2:200:5efe:a00:5": "ISATAP",
    "fe80::5efe:10.0.0.5": "link-local",
    "2606:4700::1%eth0": "one network interface",
    "::1%lo": "one network interface",
}
PUBLIC = (
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
    "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255", "2606:4700::1", "2a00::1",
    "2606:4700::100:5efe:a00:5", "2606:4700::5eff:a00:5", "2001:200::1", "2003::1",
    "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
)  # fmt: skip


@pytest.mark.parametrize(("address", "words"), SPECIAL.items())
def test_special_address_is_refused_with_its_kind(address: str, words: str) -> None:
    """The operator reads which address it was and what it is."""
    found = refusal(address)
    assert found is not None
    assert words in found
    assert found.startswith(f"{ipaddress.ip_address(address)} is ")


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_not_refused(address: str) -> None:
    """The neighbours of each special network are public, and so is IPv4 through a NAT64 of the operator's network."""
    assert refusal(address) is None


def test_no_address_that_python_knows_as_special_is_missed() -> None:
    """The standard library's own list agrees, for one address in each of many networks."""
    for first in range(256):
        for second in (0, 16, 18, 51, 64, 88, 168, 175, 254):
            address = ipaddress.IPv4Address(f"{first}.{second}.1.1")
            if not address.is_global or address.is_multicast:
                assert refusal(address) is not None, address
    for first in range(0, 0x10000, 0x10):
        for second in (0, 1, 2, 0xDB8):
            six = ipaddress.IPv6Address(first << 112 | second << 96 | 1)
            if not six.is_global or six.is_multicast or six.is_reserved:
                assert refusal(six) is not None, six


def test_one_special_address_refuses_a_name() -> None:
    """A name with a public and a private address could be connected to either way."""
    assert refusals(["1.1.1.1", "2606:4700::1"]) is None
    assert refusals(["1.1.1.1", "10.0.0.5"]) == "10.0.0.5 is a private address"
    assert refusals(["fe80::1", "1.1.1.1"]) == "fe80::1 is a link-local address"


LITERALS = {
    "127.0.0.1": "127.0.0.1",
    "127.0.0.1.": "127.0.0.1",
    "127.1": "127.0.0.1",
    "127.0.1": "127.0.0.1",
    "2130706433": "127.0.0.1",
    "0x7f000001": "127.0.0.1",
    "0X7F.0.0.1": "127.0.0.1",
    "0x7f.1": "127.0.0.1",
    "017700000001": "127.0.0.1",
    "0177.0.0.1": "127.0.0.1",
    "0": "0.0.0.0",
    "10.5": "10.0.0.5",
    "0xa9fea9fe": "169.254.169.254",
    "[::1]": "::1",
    "::ffff:7f00:1": "::ffff:7f00:1",
    "fe80::1%eth0": "fe80::1%eth0",
}


@pytest.mark.parametrize(("host", "address"), LITERALS.items())
def test_numeric_host_is_read_as_resolvers_read_it(host: str, address: str) -> None:
    """Short, decimal, octal and hexadecimal forms all reach an address without any look-up."""
    assert literal(host) == ipaddress.ip_address(address)


@pytest.mark.parametrize("host", ["example.com", "a", "dead.beef", "face", "1.2.3.4.5", "256.1.1.1", "", "0x", "1..2"])
def test_name_is_not_an_address(host: str) -> None:
    """What no resolver takes for an address is a name, even if it has only hexadecimal letters."""
    assert literal(host) is None


def test_host_is_refused_by_its_form_alone_where_that_suffices() -> None:
    """Literals and localhost need no look-up; any other name does."""
    assert host_refusal("127.1") == "127.0.0.1 is a loopback address"
    assert host_refusal("LocalHost.") == "localhost is this machine"
    assert host_refusal("a.localhost") == "a.localhost is this machine"
    assert host_refusal("example.com") is None
    assert host_refusal("1.1.1.1") is None


def allowed(text: str) -> Allowed:
    env = EnvReader({"KURIR_WEBHOOK_ALLOW": text})
    found = read_allowed(env)
    env.finish()
    return found


def test_operator_opens_networks_and_names_and_nothing_else() -> None:
    """Each item opens itself only: a name does not open its address, nor a network its neighbour."""
    opened = allowed("10.0.0.0/8, fd12::/16, 192.168.1.7, LocalHost, app.lan.")
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::5", "192.168.1.7"):
        assert refusal(address, opened) is None
    for address in ("192.168.1.8", "127.0.0.1", "::1", "fd13::1", "64:ff9b::10.0.0.1", "2002:a00:1::1"):
        assert refusal(address, opened) is not None
    assert opened.covers_host("localhost.")
    assert opened.covers_host("app.lan")
    assert opened.covers_host("10.1")
    assert not opened.covers_host("other.lan")
    assert not opened.covers_host("app.lan.example.com")
    assert not opened.covers_host("127.0.0.1")
    assert host_refusal("localhost", opened) is None
    assert host_refusal("x.localhost", opened) == "x.localhost is this machine"


def test_nothing_is_open_by_default() -> None:
    """An unset or empty variable opens nothing."""
    assert allowed("") == Allowed()


def test_every_item_that_opens_nothing_is_reported() -> None:
    """A typing error must not silently open nothing, or something else."""
    with pytest.raises(SettingsError) as caught:
        allowed("10.0.0.1/8, https://app.lan, 127.1, 10.0.0.0/33, ::ffff:10.0.0.0/104, *.lan, app.lan:8080")
    problems = caught.value.problems
    assert len(problems) == 7
    assert problems[0].endswith("; do you mean 10.0.0.0/8?")
    assert all(problem.startswith("KURIR_WEBHOOK_ALLOW: ") for problem in problems)
    assert problems[4].endswith("write it as IPv4")
