"""Addresses in mail: parses mailboxes of settings and requests, and writes addresses for SMTP commands.

A domain is always sent in ASCII (IDNA), so only a local part beyond ASCII needs SMTPUTF8 (RFC 6531).
"""

from __future__ import annotations

import re
from email.headerregistry import Address
from email.utils import getaddresses

from email_validator import EmailNotValidError, validate_email

from shared.addresses import ascii_domain
from shared.errors import KurirError
from shared.hosts import is_fully_qualified

_UNFIT = re.compile(r"[\x00-\x20\x7f<>]")


class AddressError(KurirError, ValueError):
    """A text is not a mailbox; the message does not repeat the text."""


def parse_mailbox(text: str) -> Address:
    """Parse an RFC 5322 mailbox, `Name <address>` or an address; the domain becomes ASCII. Raises AddressError."""
    if any(character in text for character in "\r\n\0"):
        raise AddressError("a mailbox must be on one line")
    found = getaddresses([text])
    if len({address for _, address in found}) > 1:
        raise AddressError("this is more than one mailbox, or a name with a comma that is not in quotes")
    name, address = found[0] if found else ("", "")
    if not address:
        raise AddressError("this is not a mailbox such as Shop <shop@example.com>")
    local, _, domain = wire_address(address).rpartition("@")
    if not local or not domain:
        raise AddressError("an address needs a local part and a domain, such as shop@example.com")
    return Address(name, local.strip('"') if local.startswith('"') else local, domain)


def wire_domain(domain: str) -> str:
    """Return a domain in ASCII and lower case; raises AddressError."""
    found = ascii_domain(domain)
    if not is_fully_qualified(found):
        raise AddressError(f"{domain!r} is not a domain such as example.com")
    return found


def wire_address(address: str) -> str:
    """Return an address for an SMTP command, with its domain in ASCII; raises AddressError."""
    if _UNFIT.search(address):
        raise AddressError("an address must not contain spaces, angle brackets or control characters")
    if address.isascii():
        return address
    try:
        valid = validate_email(address, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise AddressError(str(error)) from None
    return f"{valid.local_part}@{valid.ascii_domain}"
