"""The settings of bounce mail: the domain of return paths, the SMTP listener, and the mailbox.

The mailbox is `imaps://user:password@host[:port]/folder`, or `imap://` for a server that offers STARTTLS. Error
messages never repeat the URL, since it has a password.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from shared.hosts import is_loopback
from shared.settings import EnvReader, parse_seconds, read_bounce_domain
from shared.urls import ENCODE_HINT, split_url

IMAP_URL = "KURIR_BOUNCE_IMAP_URL"
SMTP_PORT = "KURIR_BOUNCE_SMTP_PORT"
_PORTS = {"imap": 143, "imaps": 993}
_FORM = "imaps://user:password@host[:port]/folder[?then=seen|delete&every=30s]"
_OPTIONS = frozenset({"then", "every"})
_SHORTEST_S, _LONGEST_S = 1.0, 3600.0


@dataclass(frozen=True, slots=True)
class MailboxSettings:
    """A mailbox for bounces: `tls` is `implicit`, `required` or `if-offered`.

    What Redis has is marked as seen; it is deleted if `delete`. New mail is looked for every `every_s` seconds.
    """

    host: str
    port: int
    tls: str
    username: str
    password: str = field(repr=False)
    folder: str = "INBOX"
    delete: bool = False
    every_s: float = 30.0
    ca_file: str = ""

    @property
    def name(self) -> str:
        """The mailbox in logs, without its user, which may be an address, and its password."""
        return f"{self.host}:{self.port}/{self.folder}"


@dataclass(frozen=True, slots=True)
class BounceSettings:
    """How bounce mail comes in: `smtp_port` 0 means no listener, `mailbox` None no mailbox."""

    secret: str = field(repr=False)
    domain: str = ""
    smtp_port: int = 0
    mailbox: MailboxSettings | None = None


def read_bounce_settings(reader: EnvReader) -> BounceSettings:
    """Read the settings; the reader's `finish` raises the problems."""
    domain = read_bounce_domain(reader)
    port = reader.integer(SMTP_PORT, 0, minimum=0, maximum=65535)
    if port and not domain:
        reader.problem(f"{SMTP_PORT} needs KURIR_BOUNCE_DOMAIN, whose mail it takes")
    url = reader.text(IMAP_URL, "")
    ca_file = reader.path("KURIR_BOUNCE_IMAP_CA_FILE", "")
    mailbox = None
    if url:
        try:
            mailbox = parse_mailbox_url(url, ca_file)
        except ValueError as error:
            reader.problem(f"{IMAP_URL}: {error}")
    if ca_file and not _loads(ca_file):
        reader.problem(f"KURIR_BOUNCE_IMAP_CA_FILE: {ca_file} has no certificates that can be read")
    secret = reader.text("KURIR_SECRET", "" if not (domain or url) else None)
    return BounceSettings(secret, domain, port, mailbox)


def parse_mailbox_url(url: str, ca_file: str = "") -> MailboxSettings:
    """Parse the URL of a mailbox; raises ValueError with a message that does not repeat it."""
    parts = split_url(url, tuple(_PORTS), _FORM)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.hostname or not parts.username or not parts.password:
        raise ValueError(f"it must be {_FORM}")
    if set(options) - _OPTIONS:
        raise ValueError(f"unknown option: the options are {', '.join(sorted(_OPTIONS))}; {ENCODE_HINT}")
    if options.get("then", "seen") not in {"seen", "delete"}:
        raise ValueError("the option then must be seen or delete")
    implicit = parts.scheme == "imaps"
    return MailboxSettings(
        host=parts.hostname,
        port=parts.port or _PORTS[parts.scheme],
        tls="implicit" if implicit else "if-offered" if is_loopback(parts.hostname) else "required",
        username=unquote(parts.username),
        password=unquote(parts.password),
        folder=unquote(parts.path.strip("/")) or "INBOX",
        delete=options.get("then") == "delete",
        every_s=_every(options.get("every", "30s")),
        ca_file=ca_file,
    )


def _every(text: str) -> float:
    try:
        seconds = parse_seconds(text)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise ValueError("the option every must be a duration from 1s to 1h")
    return seconds


def _loads(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(Path(path))
    except OSError:  # SSLError is one
        return False
    return True
