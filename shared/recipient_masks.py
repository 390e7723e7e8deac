"""Recipients masked: what a client sees whose API key may not see who receives messages.

An address keeps its first character and its domain, a phone number its last two digits, a name its first character:
enough to tell rows apart and to see which provider is meant. Free texts (the words of providers, subjects, references)
are searched for all of them. Every scan takes linear time, since texts come from outside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
RECIPIENT = "<recipient>"
# a run of characters of an address: matched as a whole, since a pattern with the @ would take quadratic time
_RUN = re.compile(r"[^\s<>\"'(),:;=\[\]{}/\\?&|]++")
_AT = re.compile(r"@|%40|%2540", re.IGNORECASE)
# 8 to 15 digits in any notation, but not an address of the internet or a day
_PHONE = re.compile(
    r"(?<![\w.%-])(?!\d{1,3}(?:\.\d{1,3}){3}(?!\d))(?!(?:19|20)\d\d-[01]\d-[0-3]\d(?!\d))"
    r"\+?\(?\d(?:[ ().-]{0,2}\d){7,14}(?![\w-])"
)
# WhatsApp's ids of messages contain the number in base64
_WAMID = re.compile(r"wamid\.[\w=+/-]++")
_SUPPRESSION = re.compile(r"(/suppressions/)[^/\s]++")
_MESSAGE_IDS = frozenset({"message_id", "provider_id", "messageId", "providerId"})
_PLAIN = re.compile(
    r"(?:.*(?:_id|Id|_ids|Ids|_at|At)|id|at|nextCursor|ip_address|url|next_at|state|status|channel|version)"
)
_NAMES = frozenset({"recipient_name", "recipientName"})
_ADDRESSES = frozenset({"recipient_email", "recipient_phone", "recipient", "address"})
_SHORTEST_WORD = 3
_TELLING_DIGITS = 8


def masked_address(text: str) -> str:
    """Return a whole address or phone number, masked."""
    if _AT.search(text):
        return _RUN.sub(_without_address, text)
    return HIDDEN + text[-2:] if text else text


def masked_text(text: str) -> str:
    """Return a text with the addresses and phone numbers in it masked."""
    if _AT.search(text):
        text = _RUN.sub(_without_address, text)
    if "wamid." in text:
        text = _WAMID.sub(f"wamid.{HIDDEN}", text)
    return _PHONE.sub(lambda found: HIDDEN + found[0][-2:], text)


def without_recipient(text: str, address: str) -> str:
    """Return a text with a message's own address hidden: as it is, its local part alone, or its number in any notation.

    A number counts by its last eight digits, since a provider may write it without the country's code.
    """
    local, at, domain = address.rpartition("@")
    if not at:
        return _PHONE.sub(lambda found: RECIPIENT if _ends_alike(found[0], address) else found[0], text)
    if local.lower() not in text.lower():
        return text
    whole = rf"{re.escape(local)}(?:{_AT.pattern}){re.escape(domain)}"
    alone = rf"|(?<![\w@]){re.escape(local)}(?![\w@]|%40)" if len(local) >= _SHORTEST_WORD else ""
    return re.sub(whole + alone, RECIPIENT, text, flags=re.IGNORECASE)


def _ends_alike(number: str, digits: str) -> bool:
    return "".join(filter(str.isdigit, number))[-_TELLING_DIGITS:] == digits[-_TELLING_DIGITS:]


def masked(value: Any) -> Any:
    """Return an answer of the API with its recipients masked: rows by their fields, all other texts as texts."""
    return _masked(value, "", None)


def _masked(value: Any, key: str, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _text(value, key, known)
    if isinstance(value, list):
        return [_masked(one, key, known) for one in value]
    if isinstance(value, dict):
        own = _known(value) or known
        return {name: _masked(one, name, own) for name, one in value.items()}
    return value


def _text(text: str, key: str, known: re.Pattern[str] | None) -> str:
    if key in _ADDRESSES:
        return masked_address(text)
    if key in _NAMES:
        return text[:1] + HIDDEN if text else text
    if key in _MESSAGE_IDS:
        # ours, of mail, begins with "<"; a provider's may contain the number
        return text if text.startswith("<") else HIDDEN
    if key == "request_body":
        return HIDDEN if text else text
    if key == "endpoint":
        text = _SUPPRESSION.sub(rf"\1{HIDDEN}", text)
    if _PLAIN.fullmatch(key):
        return text
    return masked_text(known.sub(HIDDEN, text) if known is not None else text)


def _known(row: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Return what a row says of its recipient, to be found in its other texts: the name and the local part."""
    email, name = row.get("recipient_email"), row.get("recipient_name")
    local = email.rpartition("@")[0] if isinstance(email, str) else ""
    words = [local, *(name.split() if isinstance(name, str) else ())]
    found = sorted({word for word in words if len(word) >= _SHORTEST_WORD}, key=len, reverse=True)
    if not found:
        return None
    # not the local part of the address itself, which keeps its domain
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, found))})(?![\w@]|%40)", re.IGNORECASE)


def _without_address(run: re.Match[str]) -> str:
    text = run[0]
    signs = list(_AT.finditer(text))
    if not signs or not text[: signs[-1].start()]:
        return text
    return f"{text[0]}{HIDDEN}{text[signs[-1].start() :]}"
