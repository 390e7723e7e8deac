"""The sender's identity: its name in EHLO, the envelope's sender, and what authenticates each From domain.

DMARC passes if DKIM or SPF is aligned with From (RFC 7489, 3.1): DKIM by the domain of the signing key, SPF by the
domain of the envelope's sender.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.email_sender.dkim_keys import DkimKey, KeyRing
from shared.addresses import AddressError
from shared.hosts import as_address, is_fully_qualified, is_loopback, is_public
from shared.mailboxes import Mailbox, parse_mailbox, smtp_domain
from shared.settings import EnvReader
from shared.urls import host_of

HELO = "KURIR_SMTP_HELO"
# default names of machines, which identify nothing and which receivers distrust
_NO_NAMES = ("localhost", "localdomain", "cluster.local")
_LITERAL = re.compile(r"\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where to find a name for EHLO if the settings give none."""

    servers: Sequence[str]
    public_url: str
    sandboxed: bool


def read_helo(reader: EnvReader, around: Surroundings) -> str:
    """Return the name for EHLO: a fully-qualified name, or an address in brackets (RFC 5321, 4.1.1.1 and 4.1.3)."""
    given = reader.text(HELO, "")
    if given:
        name = _valid(given)
        if not name:
            reader.problem(
                f"{HELO}: {given!r} is neither a fully-qualified host name such as mail.example.com "
                "nor an address in brackets such as [192.0.2.1]"
            )
        return name or given
    if found := find_helo(around):
        return found
    reader.problem(
        f"{HELO} is required: this machine's name, {socket.gethostname()!r}, is not fully qualified, and mail servers "
        "refuse such a name; set it to the name of this machine's public address in the DNS, such as mail.example.com"
    )
    return ""


def _valid(text: str) -> str:
    literal = _LITERAL.fullmatch(text)
    if literal is not None:
        address = as_address(literal[1])
        tag = "" if address is None or address.version == 4 else "IPv6:"
        return f"[{tag}{address}]" if address is not None else ""
    try:
        return smtp_domain(text)
    except AddressError:
        return ""


def find_helo(around: Surroundings) -> str:
    """Return this machine's name, else the host of KURIR_PUBLIC_URL, else [127.0.0.1] for local or sandbox servers."""
    own = socket.gethostname()
    own = (own if "." in own else socket.getfqdn()).lower().rstrip(".")
    if is_fully_qualified(own) and not f".{own}".endswith(tuple(f".{name}" for name in _NO_NAMES)):
        return own
    host = host_of(around.public_url)
    if is_public(host) and as_address(host) is None:
        return host
    if around.sandboxed or (around.servers and all(map(is_loopback, around.servers))):
        return "[127.0.0.1]"
    return ""


def read_return_path(reader: EnvReader) -> str:
    """Return the envelope's sender, "" for the address of From.

    The null sender is an error: it is meant for notifications (RFC 5321, 4.5.5), and bounces would be lost.
    """
    name = "KURIR_EMAIL_RETURN_PATH"
    text = reader.text(name, "")
    if not text:
        return ""
    if text.strip("<> ") == "":
        reader.problem(f"{name}: the empty sender <> would lose every bounce; give a mailbox, or leave it unset")
        return ""
    try:
        mailbox = parse_mailbox(text)
    except AddressError as error:
        reader.problem(f"{name}: {error}")
        return ""
    if mailbox.name or not mailbox.smtp_address.isascii() or not is_fully_qualified(mailbox.domain):
        reader.problem(f"{name}: {text!r} is not an address in ASCII such as bounces@example.com")
    return mailbox.smtp_address


def read_domains(reader: EnvReader, sender: Mailbox) -> tuple[str, ...]:
    """Return the domains that mail may come from, the configured sender's first."""
    name = "KURIR_EMAIL_DOMAINS"
    found = [sender.domain]
    for text in reader.items(name):
        try:
            found.append(smtp_domain(text))
        except AddressError as error:
            reader.problem(f"{name}: {error}")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Identity:
    """The names and keys that the sender uses; mail may come from `domains`."""

    helo: str
    return_path: str
    domains: tuple[str, ...]
    keys: KeyRing

    def unsigned(self) -> list[str]:
        """Return the domains without a key."""
        return [domain for domain in self.domains if not self.keys.for_domain(domain)]

    def spf_aligned(self, domain: str) -> bool:
        """Return whether the envelope's sender is in the domain, or in a parent or subdomain of it."""
        bounce = self.return_path.rpartition("@")[2].lower() or domain
        return any(f".{one}".endswith(f".{other}") for one, other in ((bounce, domain), (domain, bounce)))

    def unaligned(self) -> list[str]:
        """Return the domains that neither our signature nor the envelope's sender authenticates."""
        return [domain for domain in self.unsigned() if not self.spf_aligned(domain)]

    def describe(self) -> dict[str, object]:
        """Return the identity as the status call shows it, with the DKIM records to publish in the DNS."""
        return {
            "ehlo": self.helo,
            "returnPath": self.return_path or "the address of From",
            "domains": [
                {
                    "domain": domain,
                    "signedBy": [f"{key.algorithm} {key.dns_name}" for key in self.keys.for_domain(domain)],
                    "spfAligned": self.spf_aligned(domain),
                }
                for domain in self.domains
            ],
            "dkimRecords": dict(_records(self.keys.keys)),
        }


def _records(keys: Iterable[DkimKey]) -> Iterable[tuple[str, str]]:
    return ((key.dns_name, key.dns_record) for key in keys)
