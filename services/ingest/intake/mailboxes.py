"""Mailboxes: `Name <address>` or a bare address, as `from` takes it, safe to stand in a header."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.ingest.addresses import AddressError, normal_email
from services.ingest.problems import Problem

_NAMED = re.compile(r"(?P<name>[^<>]*+)<(?P<address>[^<>]*+)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"')
# a display name of these needs no quotes (RFC 5322, section 3.2.3), other alphabets aside
_SPECIALS = re.compile(r"[()<>\[\]:;@\\,.\"]")
MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name, "" for none, and an address in its normal form."""

    name: str
    address: str

    def __str__(self) -> str:
        """Write it as RFC 5322 does, the name in its own alphabet."""
        if not self.name:
            return self.address
        escaped = re.sub(r'(["\\])', r"\\\1", self.name)
        return f'"{escaped}" <{self.address}>' if _SPECIALS.search(self.name) else f"{self.name} <{self.address}>"


def read_mailbox(text: str, field: str) -> Mailbox | Problem:
    """Read a mailbox, or say what is wrong with the field."""
    if not text.strip():
        return Problem(field, "REQUIRED", "there is no address to send mail from: give one, or set KURIR_EMAIL_FROM")
    if not text.isprintable():
        return Problem(field, "INVALID_CHARACTERS", f"{field} contains line breaks or control characters")
    named = _NAMED.fullmatch(text.strip())
    name, address = (named["name"].strip(), named["address"]) if named else ("", text)
    quoted = _QUOTED.fullmatch(name)
    if quoted:
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    if len(name) > MAX_NAME_CHARS:
        return Problem(field, "TOO_LONG", f"the name is longer than {MAX_NAME_CHARS} characters")
    try:
        return Mailbox(name, normal_email(address))
    except AddressError as error:
        return Problem(field, "INVALID_EMAIL", str(error))
