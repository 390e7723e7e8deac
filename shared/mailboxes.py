"""Mailboxes: email addresses in their normal form, with or without a display name, and in the form that SMTP takes.

The normal form is email-validator's, without a DNS lookup; `.test` domains are allowed, other special-use names
(`.local`, `.invalid` …) are not. The library takes tens of microseconds; plain ASCII takes a fast path with the same
result, which a test compares with the library over generated input. No normal form contains a line break, a space or a
control character, so none can break out of a header. A spreadsheet's mark before an address is not part of it: the mail
would go to a mailbox that nobody has, and a suppression would stop none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from email_validator import EmailNotValidError, validate_email
from email_validator.rfc_constants import ATEXT, CASE_INSENSITIVE_MAILBOX_NAMES

from shared.addresses import INVISIBLE, TEXT_MARKS, AddressError, ascii_domain
from shared.hosts import is_fully_qualified

MAX_EMAIL_CHARS = 320

# labels without "--" are neither punycode nor reserved; a last label of letters is neither a number nor an IP address
# possessive, since what follows a run is never one of its characters: half the time without backtracking
_LABEL = "[A-Za-z0-9]++(?:-[A-Za-z0-9]++)*+"
_PLAIN_EMAIL = re.compile(rf"([{ATEXT}]++(?:\.[{ATEXT}]++)*+)@((?:{_LABEL}\.)++[A-Za-z]{{2,63}})")
_LONGEST_PLAIN = 254
_LONGEST_LABEL = 63
_SPECIAL_ENDINGS = frozenset({"arpa", "invalid", "local", "localhost", "onion"})
_ROLE_NAMES = frozenset(CASE_INSENSITIVE_MAILBOX_NAMES)
_NAMED = re.compile(r"(?P<name>[^<>]*+)<(?P<address>[^<>]*+)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"')
# outside quotes, they separate mailboxes or belong to an address
_SEPARATORS = re.compile(r"[,;@]")
# a display name of these needs no quotes (RFC 5322, section 3.2.3), other alphabets aside
_SPECIALS = re.compile(r"[()<>\[\]:;@\\,.\"]")
_UNFIT = re.compile(r"[\x00-\x20\x7f<>]")


def normal_email(text: str) -> str:
    """Return the normal form of an email address; raises AddressError."""
    text = text.strip(INVISIBLE).lstrip(TEXT_MARKS)
    return _plain_email(text) or _any_email(text)


def _plain_email(text: str) -> str | None:
    """Return the normal form of a plain ASCII address, None if the library has to decide."""
    found = _PLAIN_EMAIL.fullmatch(text)
    if found is None or len(text) > _LONGEST_PLAIN:
        return None
    local, domain = found.groups()
    normal = _plain_domain(domain)
    if normal is None:
        return None
    lowered = local.lower()
    return f"{lowered if lowered in _ROLE_NAMES else local}@{normal}"


@lru_cache(1024)
def _plain_domain(domain: str) -> str | None:
    """Return the normal form of an ASCII domain, None if the library has to decide; most of a blast's share a few."""
    lowered = domain.lower()
    labels = lowered.split(".")
    if labels[-1] in _SPECIAL_ENDINGS or any(len(label) > _LONGEST_LABEL for label in labels):
        return None
    return lowered


def _any_email(text: str) -> str:
    if len(text) > MAX_EMAIL_CHARS:
        raise AddressError(f"The email address is longer than {MAX_EMAIL_CHARS} characters.")
    if "@" not in text:
        raise AddressError("An email address must have an @-sign.")
    try:
        # the only effect of test_environment is to allow .test domains
        return validate_email(text, check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError as error:
        raise AddressError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name, "" for none, and an address in normal form."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        """The address's domain in ASCII and lower case."""
        return ascii_domain(self.address.rpartition("@")[2])

    @property
    def smtp_address(self) -> str:
        """The address with its domain in ASCII, as SMTP commands and headers take it."""
        return f"{self.address.rpartition('@')[0]}@{self.domain}"

    def __str__(self) -> str:
        """Format it as RFC 5322 does, with the name in its own alphabet."""
        if not self.name:
            return self.address
        escaped = re.sub(r'(["\\])', r"\\\1", self.name)
        return f'"{escaped}" <{self.address}>' if _SPECIALS.search(self.name) else f"{self.name} <{self.address}>"


def parse_mailbox(text: str) -> Mailbox:
    """Parse `Name <address>` or an address (RFC 5322, 3.4, without comments and groups); raises AddressError.

    A name with a comma, a semicolon or an @-sign must be in quotes: without them the text may mean two mailboxes.
    """
    if not text.isprintable():
        raise AddressError("a mailbox must be on one line, without control characters")
    named = _NAMED.fullmatch(text.strip())
    name, address = (named["name"].strip(), named["address"]) if named else ("", text)
    quoted = _QUOTED.fullmatch(name)
    if quoted:
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _SEPARATORS.search(name if named else address.replace("@", "", 1)):
        raise AddressError(
            "this is more than one mailbox, or a name with a comma, semicolon or @ that is not in quotes"
        )
    if not named and "@" not in text:
        raise AddressError("this is not a mailbox such as Shop <shop@example.com>")
    return Mailbox(name, normal_email(address))


def smtp_domain(domain: str) -> str:
    """Return a domain in ASCII and lower case; raises AddressError."""
    found = ascii_domain(domain)
    if not is_fully_qualified(found):
        raise AddressError(f"{domain!r} is not a domain such as example.com")
    return found


def smtp_address(address: str) -> str:
    """Return a recipient's address for an SMTP command; raises AddressError if it cannot be written there.

    Its domain becomes ASCII (IDNA), so only a local part beyond ASCII needs SMTPUTF8 (RFC 6531). Ingest has validated
    the address; this keeps out only what would break the command.
    """
    if _UNFIT.search(address):
        raise AddressError("an address must not contain spaces, angle brackets or control characters")
    if address.isascii():
        return address
    try:
        valid = validate_email(address, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise AddressError(str(error)) from None
    return f"{valid.local_part}@{valid.ascii_domain}"
