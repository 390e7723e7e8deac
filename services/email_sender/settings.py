"""The email sender's settings: SMTP servers as URLs, the sender's identity, and the base of unsubscribe links.

A server is `smtp://` or `smtps://`, `[user:password@]host[:port]`, and options in its query: `tls` (`required`,
`if-offered`, `off`), `weight`, `rate`, `concurrency`, `max_messages`, `auth` and `oauth` (see `oauth_settings`).
With credentials STARTTLS is required unless the URL says otherwise. Error messages never repeat a URL, since it may
contain a password.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, parse_qsl, unquote

from services.email_sender.dkim_keys import read_keys
from services.email_sender.identity import Identity, Surroundings, read_domains, read_helo, read_return_path
from services.email_sender.oauth_settings import OAuthReader, OAuthSettings, is_oauth_name
from shared.addresses import AddressError
from shared.channels import CHANNELS, EMAIL
from shared.hosts import public_url_problem
from shared.mailboxes import Mailbox, parse_mailbox
from shared.receipts import RETURN_PREFIX
from shared.sending.breaker import BreakerPolicy
from shared.sending.settings import SendingSettings, read_sending_settings
from shared.settings import CommonSettings, EnvReader, Rate, read_bounce_domain, read_common, read_http_url
from shared.urls import ENCODE_HINT, split_url

DEFAULT_PORT = 3010
TLS_MODES = ("required", "if-offered", "off")
_PORTS = {"smtp": 25, "smtps": 465}
_FORM = "smtp://[user:password@]host[:port][?option=value] or smtps://…"
# in place of a sender that is missing or wrong: settings with a problem are never used
_NO_SENDER = Mailbox("", "nobody@invalid")
_OPTIONS = ("tls", "weight", "rate", "concurrency", "max_messages", "auth", "oauth")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """One SMTP server; `tls` is `implicit` (smtps), `required`, `if-offered` or `off`.

    `concurrency` 0 means the sender's own; `max_messages` 0 means no limit per connection. `xoauth2` names the OAuth
    settings for the log-in ("" for the unnamed ones); None means a log-in by password, or none.
    """

    host: str
    port: int
    tls: str
    username: str = ""
    password: str = field(default="", repr=False)
    weight: int = 1
    rate: Rate | None = None
    concurrency: int = 0
    max_messages: int = 100
    xoauth2: str | None = None
    oauth: OAuthSettings | None = None

    @property
    def name(self) -> str:
        """The server's name in logs and status."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time-outs in seconds.

    `connect_s` bounds connecting, the greeting and the start of TLS, each; `command_s` the reply to a command, also
    while logging in; `data_s` the reply to the final dot. A connection idle for `idle_s` is not used again.
    """

    connect_s: float = 15.0
    command_s: float = 60.0
    data_s: float = 300.0
    idle_s: float = 60.0

    def longest_s(self, servers: int) -> float:
        """Return the longest time that a send can take, if each step takes as long as it may.

        It counts each server in turn and one stale connection: connecting, greeting and TLS, up to eight commands to
        log in, up to five to announce; then the message and the reply to its final dot.
        """
        opening = 3 * self.connect_s + 13 * self.command_s
        return (servers + 1) * opening + 2 * self.data_s


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """The servers, their time-outs and the policy of their breakers.

    `concurrency` applies to servers without their own. `sandboxed`: every server must be Kurir's sandbox.
    """

    servers: tuple[ServerSettings, ...]
    timeouts: Timeouts
    ca_file: str
    helo: str
    concurrency: int = 5
    pipelining: bool = True
    sandboxed: bool = False
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)


@dataclass(frozen=True, slots=True)
class MailSettings:
    """The sender's data in every message.

    `return_path` is the envelope's sender, "" for the address of From; with a `bounce_domain`, each message has one of
    its own there. `unsubscribe_to` is the mailbox of the `mailto:` link, "" for none. `sandboxed`: messages reach no
    real recipient.
    """

    sender: Mailbox
    public_url: str
    secret: str = field(repr=False)
    unsubscribe_to: str = ""
    return_path: str = ""
    sandboxed: bool = False
    bounce_domain: str = ""
    with_metadata: bool = False

    @property
    def sender_pattern(self) -> str:
        """The envelope's sender as the status call shows it."""
        return f"{RETURN_PREFIX}<token>@{self.bounce_domain}" if self.bounce_domain else self.return_path

    @property
    def marketing_problem(self) -> str:
        """Why marketing mail must not be sent, or "": its unsubscribe link must work for every recipient."""
        return "" if self.sandboxed else public_url_problem(self.public_url)


@dataclass(frozen=True, slots=True)
class EmailSettings:
    """All settings of the email sender."""

    common: CommonSettings
    sending: SendingSettings
    smtp: SmtpSettings
    mail: MailSettings
    identity: Identity


def read_settings(env: Mapping[str, str]) -> EmailSettings:
    """Read the settings; raises SettingsError with every problem."""
    reader = EnvReader(env)
    common = read_common(reader, DEFAULT_PORT)
    sending = read_sending_settings(reader, EMAIL, common)
    mail = _mail(reader)
    smtp = _smtp(reader, common, sending.concurrency, mail)
    # a sender exits only if a send takes longer than all its time-outs together
    settings = EmailSettings(
        common=common,
        sending=sending.patient(smtp.timeouts.longest_s(len(smtp.servers))),
        smtp=smtp,
        mail=replace(mail, with_metadata=any(_is_postmark(server.host) for server in smtp.servers)),
        identity=Identity(smtp.helo, mail.sender_pattern, read_domains(reader, mail.sender), read_keys(reader)),
    )
    reader.finish()
    return settings


def _is_postmark(host: str) -> bool:
    return host.lower().rstrip(".").endswith(".postmarkapp.com")


def _smtp(reader: EnvReader, common: CommonSettings, concurrency: int, mail: MailSettings) -> SmtpSettings:
    servers = _servers(reader)
    around = Surroundings([server.host for server in servers], mail.public_url, mail.sandboxed)
    return SmtpSettings(
        servers=servers,
        timeouts=Timeouts(
            connect_s=reader.span("KURIR_SMTP_CONNECT_TIMEOUT", 15.0),
            command_s=reader.span("KURIR_SMTP_COMMAND_TIMEOUT", 60.0),
            data_s=reader.span("KURIR_SMTP_DATA_TIMEOUT", 300.0),
            idle_s=reader.seconds("KURIR_SMTP_IDLE_TIMEOUT", 60.0),
        ),
        ca_file=_ca_file(reader),
        helo=read_helo(reader, around),
        concurrency=concurrency,
        pipelining=reader.flag("KURIR_SMTP_PIPELINING", default=True),
        sandboxed=mail.sandboxed,
        breaker=BreakerPolicy.scaled(common.time_scale),
    )


def _ca_file(reader: EnvReader) -> str:
    path = reader.path("KURIR_SMTP_CA_FILE", "")
    if path:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as error:  # SSLError is one
            reader.problem(f"KURIR_SMTP_CA_FILE: {path}: {error.strerror or error}")
    return path


def _servers(reader: EnvReader) -> tuple[ServerSettings, ...]:
    name = "KURIR_SMTP_SERVERS"
    urls = reader.items(name)
    if not urls:
        name = "KURIR_SMTP_URL"
        single = reader.text(name, "")
        urls = [single] if single else []
    if not urls:
        reader.problem("KURIR_SMTP_URL or KURIR_SMTP_SERVERS is required")
    most = reader.integer("KURIR_SMTP_MAX_MESSAGES", 100, minimum=0)
    oauth = OAuthReader(reader)
    servers = []
    for number, url in enumerate(urls, start=1):
        try:
            server = parse_server(url, most)
            servers.append(server if server.xoauth2 is None else replace(server, oauth=oauth.read(server.xoauth2)))
        except ValueError as error:
            place = f"{name}, server {number}" if len(urls) > 1 else name
            reader.problem(f"{place}: {error}")
    return tuple(servers)


def parse_server(url: str, max_messages: int = 100) -> ServerSettings:
    """Parse a server's URL; raises ValueError with a message that does not repeat it."""
    parts = split_url(url, tuple(_PORTS), _FORM)
    if not parts.hostname:
        raise ValueError(f"it must be {_FORM}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ValueError(f"unknown option: the options are {', '.join(_OPTIONS)}; {ENCODE_HINT}")
    if parts.path not in {"", "/"}:
        raise ValueError("only options (?…) may follow the port")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    xoauth2 = _xoauth2(options, username, password)
    return ServerSettings(
        host=parts.hostname,
        port=parts.port or _PORTS[parts.scheme],
        tls=_tls(parts, options, has_credentials=bool(username)),
        username=username,
        password=password,
        weight=_count(options, "weight", 1, 1),
        rate=_rate(options),
        concurrency=_count(options, "concurrency", 0, 0),
        max_messages=_count(options, "max_messages", max_messages, 0),
        xoauth2=xoauth2,
    )


def _xoauth2(options: Mapping[str, str], username: str, password: str) -> str | None:
    """Return the name of a server's OAuth settings, None where it logs in by password or not at all."""
    name = options.get("oauth", "")
    if options.get("auth", "password") == "password":
        if bool(username) != bool(password):
            raise ValueError("a user name needs a password, or ?auth=xoauth2")
        if name:
            raise ValueError("oauth needs auth=xoauth2")
        return None
    if options["auth"] != "xoauth2":
        raise ValueError("the option auth must be password or xoauth2")
    if not username or password:
        raise ValueError("auth=xoauth2 takes a user name (the mailbox) and no password")
    if name and not is_oauth_name(name):
        raise ValueError("the option oauth must start with a lower-case letter; then letters, digits and underscores")
    return name


def _tls(parts: SplitResult, options: Mapping[str, str], *, has_credentials: bool) -> str:
    if parts.scheme == "smtps":
        if "tls" in options:
            raise ValueError("smtps:// takes no option tls")
        return "implicit"
    mode = options.get("tls", "required" if has_credentials else "if-offered")
    if mode not in TLS_MODES:
        raise ValueError(f"the option tls must be one of {', '.join(TLS_MODES)}")
    return mode


def _count(options: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = options.get(name, str(default))
    if not text.isdecimal() or not text.isascii() or int(text) < least:
        raise ValueError(f"the option {name} must be a whole number of at least {least}")
    return int(text)


def _rate(options: Mapping[str, str]) -> Rate | None:
    try:
        return Rate.parse(options.get("rate", "off"))
    except ValueError:
        raise ValueError("the option rate must be a rate such as 10/1s or 1000/1m, or off") from None


def _mail(reader: EnvReader) -> MailSettings:
    sender = _sender(reader)
    public_url = reader.text("KURIR_PUBLIC_URL").rstrip("/")
    if public_url:
        read_http_url(reader, "KURIR_PUBLIC_URL")
        if not _fit_for_header(public_url):
            reader.problem("KURIR_PUBLIC_URL must be ASCII without spaces, commas or angle brackets")
    unsubscribe_to = reader.text("KURIR_UNSUBSCRIBE_EMAIL", "")
    if unsubscribe_to and (not _fit_for_header(unsubscribe_to) or "@" not in unsubscribe_to):
        reader.problem(f"KURIR_UNSUBSCRIBE_EMAIL: {unsubscribe_to!r} is not an address in ASCII")
    return MailSettings(
        sender,
        public_url,
        reader.text("KURIR_SECRET"),
        unsubscribe_to,
        read_return_path(reader),
        sandboxed=EMAIL.name in reader.choices("KURIR_SANDBOXED", tuple(CHANNELS)),
        bounce_domain=read_bounce_domain(reader),
    )


def _fit_for_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and not set(text) & set(" <>,")


def _sender(reader: EnvReader) -> Mailbox:
    text = reader.text("KURIR_EMAIL_FROM")
    try:
        return parse_mailbox(text) if text else _NO_SENDER
    except AddressError as error:
        reader.problem(f"KURIR_EMAIL_FROM: {error}")
        return _NO_SENDER
