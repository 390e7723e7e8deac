"""Reads the body of a response in whatever form it arrives: its JSON, its error, the id of a message. Pure.

An accepted message must not be sent again because of a byte order mark or a notice behind the JSON. An error must be
found wherever Qiscus, Meta or a proxy nests it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

from shared.foreign_text import decoded, valid_value

_DEEPEST = 4
_MOST_WORDS = 500
# no real id is as long; the log's index could not hold a much longer one
_LONGEST_ID = 512
_OBJECT = re.compile(r'\{\s*["}]')
_CODE = re.compile(r"\s*+\(?#?([0-9]{1,9})\s*+\)?\s*+")
_CODE_IN_WORDS = re.compile(r"\(#([0-9]{1,9})\)")
# Meta's message ids: this prefix and about 50 characters of base64
_WAMID = re.compile(r"wamid\.[A-Za-z0-9+/_=-]{8,512}")
_ERROR = re.compile(r'"errors?"\s*:')
_MESSAGES = ("message", "title", "detail", "error_description", "description", "reason", "msg")
_CODES = ("code", "error_code", "errorCode")
_STATUSES = ("status", "statusCode", "status_code", "code")
_FAILED = frozenset({"error", "fail", "failed", "failure"})
_TELLING = frozenset({"error", "errors", "data", "success", "ok", *_STATUSES})


@dataclass(frozen=True, slots=True)
class ApiFault:
    """The error in a response; `code` is None if it has none, `is_metas` whether it has the form of Meta's errors."""

    code: int | None
    words: str
    subcode: int | None = None
    is_metas: bool = False


def read_text(raw: bytes) -> str:
    """Return the text of a body in any charset; detects the UTF-16 and UTF-32 of JSON without a byte order mark."""
    if raw.isascii() and b"\0" not in raw:
        return raw.decode("ascii")
    charset = json.detect_encoding(raw)
    return decoded(raw) if charset.startswith("utf-8") else raw.decode(charset, "replace")


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a body, or the first of a list; {} if it has none.

    Tolerates a byte order mark, any charset, text around the object, and control characters and lone surrogates in its
    strings.
    """
    try:
        return _first(orjson.loads(raw))
    except orjson.JSONDecodeError:
        pass
    text = read_text(raw)
    start = _OBJECT.search(text)
    if start is None:
        return {}
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(text, start.start())
        return _first(valid_value(found))
    except (ValueError, RecursionError):
        return {}


def _first(value: object) -> dict[str, Any]:
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) else {}


def may_refuse(body: dict[str, Any]) -> bool:
    """Return whether `find_fault`, `stated_status` or `says_no` could find something; in most bodies they cannot."""
    return not _TELLING.isdisjoint(body)


def find_fault(body: dict[str, Any]) -> ApiFault | None:
    """Return the error of a body, nested under `error`, `errors` or `data` as Qiscus does, or None."""
    return _under(body, 0)


def _under(body: dict[str, Any], depth: int) -> ApiFault | None:
    for key in ("error", "errors"):
        if body.get(key) not in (None, False, "", 0, [], {}):
            return _fault(body[key], depth)
    data = body.get("data")
    return _under(data, depth + 1) if isinstance(data, dict) and depth < _DEEPEST else None


def _fault(value: object, depth: int) -> ApiFault:
    if isinstance(value, str):
        nested = read_object(value.encode("utf-8", "replace")) if value.lstrip().startswith("{") else {}
        if not nested:
            return _of_words(value)
        value = nested
    if isinstance(value, list) and value and depth < _DEEPEST:
        return _fault(value[0], depth + 1)
    if not isinstance(value, dict):
        return ApiFault(None, _cut(str(value)))
    nested_fault = _under(value, depth + 1) if depth < _DEEPEST else None
    own = own_fault(value)
    if nested_fault is None or (nested_fault.code is None and own.code is not None):
        return own
    return nested_fault


def own_fault(fields: dict[str, Any]) -> ApiFault:
    """Return the error in an object's own fields."""
    details = fields.get("error_data")
    more = details.get("details") if isinstance(details, dict) else None
    said = next((fields[key] for key in _MESSAGES if isinstance(fields.get(key), str) and fields[key]), None)
    words = said if said is not None else _listed(fields)
    code = next((found for key in _CODES if (found := _number(fields.get(key))) is not None), None)
    return ApiFault(
        code=code if code is not None else _of_words(words).code,
        words=_cut(f"{words} ({more})" if isinstance(more, str) and more and more not in words else words),
        subcode=_number(fields.get("error_subcode")),
        is_metas="fbtrace_id" in fields or "OAuth" in str(fields.get("type")),
    )


def _of_words(words: str) -> ApiFault:
    named = _CODE_IN_WORDS.search(words)
    return ApiFault(int(named[1]) if named else None, _cut(words))


def _listed(fields: dict[str, Any]) -> str:
    """Return the errors of single fields, such as `{"to": ["is invalid"]}`, in one line."""
    shown = {key: value for key, value in fields.items() if key not in _CODES and value not in (None, "", [], {})}
    return json.dumps(shown, ensure_ascii=False, default=str) if shown else ""


def _cut(words: str) -> str:
    return _unicode(words)[:_MOST_WORDS]


def _unicode(text: str) -> str:
    """Return a text without the lone surrogates that JSON's escapes can leave."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    written = _CODE.fullmatch(value) if isinstance(value, str) else None
    return int(written[1]) if written else None


def stated_status(body: dict[str, Any]) -> int | None:
    """Return the HTTP error status that a body itself states (`{"status": 401, …}`), or None."""
    for key in _STATUSES:  # a loop: of the many answers nearly all have none of these
        number = _number(body[key]) if key in body else None
        if number is not None and 400 <= number < 600:
            return number
    return None


def says_no(body: dict[str, Any]) -> bool:
    """Return whether a body itself reports a failure, such as `success: false` or `status: "error"`."""
    status = body.get("status")
    failed = status is not None and str(status).lower() in _FAILED
    return failed or body.get("success") is False or body.get("ok") is False


def find_message_id(body: dict[str, Any]) -> str:
    """Return the id at `messages[0].id`, where WhatsApp puts it, or ""."""
    for holder in (body, body.get("data")):
        found = _id_of(_first(holder.get("messages"))) if isinstance(holder, dict) else ""
        if found:
            return found
    return ""


def find_any_id(body: dict[str, Any]) -> str:
    """Return the id at `data.id` or `id`, where Qiscus puts it for some channels, or ""."""
    data = body.get("data")
    return (_id_of(data) if isinstance(data, dict) else "") or _id_of(body)


def find_wamid(raw: bytes) -> str:
    """Return the first of Meta's message ids in a body that is not JSON or is truncated, or "".

    The truncated body of an error may name a message too, which proves nothing.
    """
    text = read_text(raw)
    found = _WAMID.search(text)
    return found[0] if found and not _ERROR.search(text) else ""


def _id_of(fields: dict[str, Any]) -> str:
    for key in ("id", "message_id"):
        one = fields.get(key)
        written = _unicode(str(one)).strip() if isinstance(one, str | int) and not isinstance(one, bool) else ""
        if written:
            return written[:_LONGEST_ID]
    return ""
