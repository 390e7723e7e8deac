"""Masking: which parts of a request the API log may keep.

Every scan here takes linear time: clients choose the input, and it is scanned on the event loop. A body is written
again from its JSON tokens, up to the first that is not JSON, so the log keeps only what was understood. Two rules hide
a value: its name sounds like a secret, or the body is guarded. A guarded body carries template variables that may be
sensitive; only the fields in `_PLAIN_FIELDS` are kept of it. The `url` of a webhook is kept as far as its host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_plus

import orjson

HIDDEN = "***"
NOT_KEPT = "(not kept: this is not JSON)"
_CUT = "…"
_SECRET_NAME = re.compile(
    r"password|passwd|passphrase|secret|token|api[_-]?key|authorization|credential|private[_-]?key|otp|\bpin\b",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(bearer\s{1,8})[\w.~+/=-]+", re.IGNORECASE)
_PLAIN_FIELDS = frozenset(
    {
        *("templateId", "channel", "channels", "from", "replyTo", "priority", "scheduledAt", "expiresAt"),
        *("reference", "validation", "onDuplicate", "dryRun", "name", "email", "phone", "filename", "contentType"),
    }
)
_URL = "url"
# without the user and password that a URL may have before an "@"
_HOST = re.compile(r"https?://[\w.:\[\]-]{1,300}+(?=[/?#]|\Z)", re.IGNORECASE)
_VARIABLES = frozenset({"variables", "globalVariables"})
# possessive: each character is scanned once
_TOKEN = re.compile(
    r'[ \t\r\n]*+(?:([][{},:])|("(?:[^"\\]|\\.)*+(?:"|\\?\Z))|(-?[0-9][0-9.eE+-]*+|true|false|null))', re.DOTALL
)
# a JSON string, or space between tokens
_BETWEEN = re.compile(r'("[^"]*+")|[ \t\r\n]++')
_NAMES_OF_OTHERS = re.compile('"(?:url|content)"')
_SPACE = re.compile(r"[ \t\r\n]*+\Z")
_LONGEST_PLAIN_SEGMENT = 20

View = Literal["open", "guarded", "hidden"]
_Expected = Literal["value", "key", "colon", "next"]


def masked_body(head: bytes, *, guarded: bool) -> str:
    """Return the beginning of a body, JSON or lines of JSON, with its secrets masked for the log."""
    text = head.decode("utf-8", "replace").removeprefix("\ufeff")
    if text[:64].lstrip()[:1] not in {"{", "["}:
        return NOT_KEPT
    if not guarded and _is_harmless(text):
        return _BETWEEN.sub(r"\1", text)
    return _JsonWriter("guarded" if guarded else "open").write(text)


def _is_harmless(text: str) -> bool:
    """Return whether a text is one JSON value in which nothing is to be masked, as most are: scanned as a whole.

    Escapes could hide a name.
    """
    if "\\" in text or _SECRET_NAME.search(text) or _BEARER.search(text) or _NAMES_OF_OTHERS.search(text):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def masked_query(raw: str, *, guarded: bool = False) -> str:
    """Return a raw query string or form, masked for the log; `?` separates parameters too, as in `?a=1?token=x`."""
    return "".join(
        part if part in {"&", "?"} else _masked_parameter(part, guarded=guarded) for part in re.split("([&?])", raw)
    )


def masked_path(path: str) -> str:
    """Return a path that belongs to no call, masked for the log: a long segment may be the token of a link."""
    return "/".join(HIDDEN if len(part) > _LONGEST_PLAIN_SEGMENT else part for part in path.split("/"))


def _masked_parameter(part: str, *, guarded: bool) -> str:
    name, equals, value = part.partition("=")
    plain = unquote_plus(name)
    if not equals:
        return HIDDEN if len(name) > _LONGEST_PLAIN_SEGMENT or (guarded and plain not in _PLAIN_FIELDS) else name
    if _SECRET_NAME.search(plain) or (guarded and plain not in _PLAIN_FIELDS):
        return f"{name}={HIDDEN}"
    decoded = unquote_plus(value)
    if decoded.lstrip()[:1] in {"{", "["}:
        return f"{name}={_JsonWriter('open').write(decoded)}"
    return f"{name}={_without_key(decoded) if _BEARER.search(decoded) else value}"


@dataclass(slots=True)
class _Level:
    """An open object or array: how its members are shown, and whether a value in it is kept unchanged.

    `named`: its keys are names of variables, which are shown although the values are hidden.
    """

    kind: str
    view: View
    kept: bool
    named: bool = False
    key: str = ""


class _JsonWriter:
    """Writes JSON again with its secrets hidden, up to the first token that does not fit."""

    def __init__(self, view: View) -> None:
        self._levels = [_Level("", view, view == "open")]
        self._expected: _Expected = "value"
        self._out: list[str] = []

    def write(self, text: str) -> str:
        """Return the text as far as it is JSON."""
        place = 0
        while (match := _TOKEN.match(text, place)) is not None:
            mark, string, word = match.groups()
            if not (self._mark(mark) if mark else self._scalar(string or word)):
                break
            place = match.end()
        if not _SPACE.match(text, place):
            self._out.append(_CUT)
        return "".join(self._out)

    def _mark(self, mark: str) -> bool:
        """Take a punctuation mark; return False where JSON does not allow it here."""
        level = self._levels[-1]
        if mark in "{[":
            if self._expected != "value":
                return False
            self._levels.append(self._below(mark))
            self._expected = "key" if mark == "{" else "value"
        elif mark in "}]":
            if level.kind != ("{" if mark == "}" else "[") or self._expected == "colon":
                return False
            self._levels.pop()
            self._expected = "value" if len(self._levels) == 1 else "next"
        elif mark == ":":
            if self._expected != "colon":
                return False
            self._expected = "value"
        else:
            if self._expected != "next":
                return False
            self._expected = "key" if level.kind == "{" else "value"
        self._out.append("\n" + mark if mark in "{[" and len(self._levels) == 2 and self._out else mark)
        return True

    def _scalar(self, token: str) -> bool:
        level = self._levels[-1]
        if self._expected == "key" and token.startswith('"'):
            level.key = _text(token)
            # the names of variables are shown even where their values are hidden: they say what was sent
            self._out.append(f'"{HIDDEN}"' if level.view == "hidden" and not level.named else token)
            self._expected = "colon"
            return True
        if self._expected != "value":
            return False
        self._out.append(self._shown(level, token))
        self._expected = "value" if len(self._levels) == 1 else "next"
        return True

    def _shown(self, level: _Level, token: str) -> str:
        view, kept = self._seen(level)
        if view == "hidden" or not kept or (level.key == "content" and token.startswith('"')):
            return f'"{HIDDEN}"'
        if level.key == _URL and len(self._levels) == 2 and token.startswith('"'):
            return orjson.dumps(_masked_url(_text(token))).decode()
        return _without_key(token)

    def _below(self, mark: str) -> _Level:
        above = self._levels[-1]
        view, kept = self._seen(above)
        named = above.view != "hidden" and above.kind == "{" and above.key in _VARIABLES
        return _Level(mark, view, kept if mark == "[" or view == "open" else False, named)

    def _seen(self, level: _Level) -> tuple[View, bool]:
        """Return how the next value is shown, and whether it is kept unchanged."""
        if level.kind != "{":
            return level.view, level.kept
        if level.view == "hidden" or _SECRET_NAME.search(level.key):
            return "hidden", False
        if level.view == "open":
            return "open", True
        if level.key in _VARIABLES:
            return "hidden", False
        return "guarded", level.key in _PLAIN_FIELDS


def _masked_url(url: str) -> str:
    """Return a webhook's URL as far as its host: its path or query may be all that authenticates a request to it."""
    found = _HOST.match(url)
    return f"{found[0]}/{HIDDEN}" if found else HIDDEN


def _without_key(text: str) -> str:
    return _BEARER.sub(rf"\1{HIDDEN}", text)


def _text(token: str) -> str:
    """Return the text of a JSON string with its escapes decoded; unchanged where they cannot be."""
    try:
        return str(orjson.loads(token))
    except orjson.JSONDecodeError:
        return token.strip('"')
