"""Masking: hides addresses, phone numbers and credentials in text from a provider or a traceback, for log lines."""

from __future__ import annotations

import re

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,20}://)(\S++)")
# a run of characters of an address: matched as a whole, since a pattern with the @ would take quadratic time
_RUN = re.compile(r"[^\s<>\"'(),:;=\[\]{}]++")
_PHONE = re.compile(r"(?<![\w.:-])\+?\d{9,15}(?![\w:-]|\.\w)")


def mask(text: str) -> str:
    """Replace text that looks like an address, a phone number or the credentials of a URL."""
    if "@" in text:
        text = _RUN.sub(_without_address, _URL.sub(_without_credentials, text))
    return _PHONE.sub("<phone>", text)


def _without_credentials(url: re.Match[str]) -> str:
    """Hide everything in a URL before its last @, since a password may have any character."""
    _, at, rest = url[2].rpartition("@")
    return f"{url[1]}*** at {rest}" if at else url[0]


def _without_address(run: re.Match[str]) -> str:
    return "<address>" if "@" in run[0][1:-1] else run[0]
