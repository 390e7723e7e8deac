"""Reads delivery status notifications (RFC 3464; RFC 6533 for international addresses)."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from services.receipts.mail.mime import fields_of

MOST_RECIPIENTS = 500
# the first word of Action in what servers really write; RFC 3464, 2.3.3 has the first five
_ACTIONS = {
    "failed": "failed", "delayed": "delayed", "delivered": "delivered", "relayed": "relayed", "expanded": "expanded",
    "failure": "failed", "fail": "failed", "error": "failed", "expired": "failed", "bounced": "failed",
    "delay": "delayed", "deferred": "delayed", "deliverable": "relayed", "deliver": "delivered", "success": "delivered",
}  # fmt: skip
_REPLY_CLASS = re.compile(r"[\s'\"]*([245])\d\d\b")
# the type utf-8 writes a character beyond ASCII as its number where a server takes ASCII alone (RFC 6533, section 3)
_NUMBERED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_STATUS = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a notification says about one recipient; its form does not matter.

    `action` is failed, delayed, delivered, relayed or expanded, "" if nothing says it; `status` an enhanced code or
    ""; `words` the diagnostic text, as it came; `original` the address that the message was first sent to, "" if it is
    not said.
    """

    action: str
    address: str
    status: str = ""
    words: str = ""
    date: str = ""
    original: str = ""


def read_status(report: bytes) -> list[Outcome]:
    """Return the outcomes of a `message/delivery-status` in their order, at most MOST_RECIPIENTS."""
    found: list[Outcome] = []
    for block in _blocks(report):
        fields: dict[str, str] = {}
        for name, value in fields_of(block):
            fields.setdefault(name, value)
        outcome = _outcome(fields)
        if outcome is not None:
            found.append(outcome)
        if len(found) >= MOST_RECIPIENTS:
            break
    return found


def _blocks(report: bytes) -> list[bytes]:
    """Return the groups of fields between blank lines."""
    blocks: list[list[bytes]] = [[]]
    for line in report.replace(b"\r\n", b"\n").split(b"\n"):
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [b"\n".join(lines) for lines in blocks if lines]


def _outcome(fields: dict[str, str]) -> Outcome | None:
    """Return the outcome of a group of fields, None for the group about the whole message."""
    final, original = _address(fields.get("final-recipient", "")), _address(fields.get("original-recipient", ""))
    if not (final or original or ("action" in fields and "status" in fields)):
        return None
    found = _STATUS.search(fields.get("status", ""))
    status = found[1] if found else ""
    words = fields.get("diagnostic-code", "")
    kind, semicolon, rest = words.partition(";")
    if semicolon and " " not in kind.strip():
        words = rest.strip()
    return Outcome(
        action=_action(fields.get("action", ""), status, words),
        address=final or original,
        status=status,
        words=words or _comment(fields.get("status", "")),
        date=fields.get("last-attempt-date", ""),
        original=original,
    )


def _action(text: str, status: str, words: str) -> str:
    """Return the action; where it is missing, the class of the status or of the reply decides (RFC 3463, 2)."""
    word = text.strip().lower().partition(" ")[0].strip("().;,")
    reply = _REPLY_CLASS.match(words)
    said = status[:1] or (reply[1] if reply else "")
    return _ACTIONS.get(word) or {"5": "failed", "4": "delayed", "2": "delivered"}.get(said, "")


def _comment(status: str) -> str:
    """Return the comment behind a status: "5.1.1 (user unknown)"."""
    return status.partition("(")[2].rpartition(")")[0].strip()


def _address(value: str) -> str:
    """Return the address of "rfc822; user@example.com", without the type and angle brackets."""
    kind, semicolon, address = value.partition(";")
    found = (address if semicolon else kind).strip().strip("<>\"' ")[:320]
    return _NUMBERED.sub(_character, found) if kind.strip().lower() == "utf-8" else found


def _character(found: re.Match[str]) -> str:
    number = int(found[1], 16)
    return chr(number) if number <= sys.maxunicode and not 0xD800 <= number <= 0xDFFF else found[0]
