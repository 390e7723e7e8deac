"""Decoding: a body becomes a typed struct, or a list of all its problems.

msgspec stops at the first problem. That is the fast path. Only where it fails is the body read again, field by field,
so that the answer names every problem with its path.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from itertools import chain, islice
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from services.ingest.http.errors import MAX_PROBLEMS, ApiError, Problem, invalid
from shared.nearest import Hints
from shared.numbers import Number

StructT = TypeVar("StructT", bound=msgspec.Struct)

_PATH = re.compile(r"^(?P<what>.*) - at `\$?(?P<path>[^`]*)`$", re.DOTALL)
_KEY_PATH = re.compile(r"^(?P<what>.*) - at `key` in `\$?(?P<path>[^`]*)`$", re.DOTALL)
# msgspec's messages name Python's types; these are the names for clients
_KINDS = {
    "str": "a string", "int": "an integer", "float": "a number", "bool": "true or false", "array": "an array",
    "object": "an object", "null": "null", "datetime": "a time such as 2026-01-31T12:00:00Z",
}  # fmt: skip
_WORDS = (
    (re.compile(r"Expected `([^`]*)`, got `([^`]*)`"), "should be {0}, but is {1}"),
    (re.compile(r"Expected `str` of length <= ([0-9]+)"), "is longer than {0} characters"),
    (re.compile(r"Expected `array` of length <= ([0-9]+)"), "has more than {0} entries"),
    (re.compile(r"Expected `(?:str|array)` of length >= 1"), "is empty"),
    (re.compile(r"Expected `\w+` >= (\S+)"), "should be at least {0}"),
    (re.compile(r"Expected `\w+` <= (\S+)"), "should be at most {0}"),
    (re.compile(r"Expected `datetime` with a timezone component"), "needs a time zone, as in 2026-01-31T12:00:00Z"),
    (re.compile(r"Invalid RFC3339 encoded datetime"), "is not a time such as 2026-01-31T12:00:00Z"),
    (re.compile(r"Invalid enum value (.{1,60}).*", re.DOTALL), "cannot be {0}"),
    (
        re.compile(r"Expected `str` matching regex .*", re.DOTALL),
        "may have only letters, digits, dots, dashes and underscores, and must begin with a letter or digit",
    ),
    (re.compile(r"Object missing required field `([^`]*)`"), "lacks the field {0}"),
    (re.compile(r"Object contains unknown field `([^`]*)`"), "has no field {0}"),
)
_MOST_ENTRIES = 1000
_json = msgspec.json.Decoder()
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def json_text(raw: bytes) -> bytes:
    """Return JSON without the byte order mark that some programs add (RFC 8259, 8.1).

    Raises UnicodeError, with a message for the client, where it is not UTF-8.
    """
    text = raw.removeprefix(BOM_UTF8)
    if b"\0" in text[:4] or text[:2] in {BOM_UTF16_LE, BOM_UTF16_BE}:
        raise UnicodeError("it is UTF-16 or UTF-32; send it as UTF-8")
    if not text.isascii():
        text.decode()
    return text


def words_of(error: BaseException) -> str:
    """Return, for the client, why a text cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} ({error.object[error.start]:#04x}) is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # msgspec's words for an empty text, too
    return "it is empty, or its end is missing" if str(error) == "Input data was truncated" else str(error)


def decode_json(raw: bytes | msgspec.Raw, kind: type[StructT]) -> StructT:
    """Decode a struct; numbers stay exact in fields of any type. Raises msgspec's exceptions."""
    decoded: StructT = json_decoder(kind).decode(raw)
    return decoded


@cache
def json_decoder(kind: type[StructT]) -> msgspec.json.Decoder[StructT]:
    """Return a struct's decoder, which keeps numbers exact in fields of any type."""
    return msgspec.json.Decoder(kind, float_hook=Number)


def read_object(raw: bytes | msgspec.Raw) -> dict[str, Any] | None:
    """Read a JSON object untyped; None if the bytes are JSON of another kind. Raises msgspec.DecodeError."""
    value = _json.decode(raw)
    return value if isinstance(value, dict) else None


def problems_of(
    value: Mapping[str, Any], kind: type[msgspec.Struct], path: str = "", hints: Hints | None = None
) -> list[Problem]:
    """Find the problems of an untyped object against a struct, field by field; unknown fields up to a limit."""
    fields = _fields_of(kind)
    hints = hints or Hints()
    unknown = islice((str(name) for name in value if name not in fields), MAX_PROBLEMS + 1)
    problems = [
        Problem(
            _join(path, name),
            "UNKNOWN_FIELD",
            f"there is no field {name[:60]!r} here{hints.did_you_mean(name, fields)}",
        )
        for name in unknown
    ]
    for name, field in fields.items():
        if name in value:
            problems += _field_problems(value[name], field.type, _join(path, name))
        elif field.required:
            problems.append(Problem(_join(path, name), "REQUIRED", f"{name} is required"))
    return problems


@cache
def _fields_of(kind: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def convert(value: Mapping[str, Any], kind: type[StructT], path: str = "") -> StructT | list[Problem]:
    """Convert an untyped object to a struct, or return all its problems."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return problems_of(value, kind, path) or [problem_of(error, path)]


def problem_of(error: msgspec.ValidationError, path: str = "") -> Problem:
    """Translate one validation error of msgspec."""
    text = str(error)
    found = _KEY_PATH.match(text) or _PATH.match(text)
    where, what = (found["path"], found["what"]) if found else ("", text)
    field = path + where if path else where.lstrip(".")
    return Problem(field, _code_of(what), _plain(what, field.rpartition(".")[2] or "the body"))


def valid_fields(raw: bytes, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return, by name, the typed values of an object's fields that have no problem, for checks of their values.

    Call it once `decode_struct` has refused the object, which must be JSON.
    """
    value, found = read_object(json_text(raw)) or {}, {}
    for name, field in _fields_of(kind).items():
        if name in value:
            with suppress(msgspec.ValidationError):
                found[name] = msgspec.convert(value[name], field.type)
    return found


def _allowed(kind: Any) -> str:
    """Return the values that a field of this type may have, for a message; "" for a type of more than a few values."""
    if get_origin(kind) in {Annotated, Union, UnionType}:
        return next(filter(None, map(_allowed, get_args(kind))), "")
    return " or ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else ""


def _field_problems(value: Any, kind: Any, path: str) -> list[Problem]:
    if kind is msgspec.Raw or (kind == list[msgspec.Raw] and isinstance(value, list)):
        return []
    struct = _struct_of(kind)
    if struct is not None and isinstance(value, dict):
        return problems_of(value, struct, path)
    if isinstance(value, list) and (found := _entry_problems(value, kind, path)):
        return found
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem = problem_of(error, path)
        if problem.field == path and " cannot be " in problem.message and (allowed := _allowed(kind)):
            return [Problem(path, problem.code, f"{problem.message}; use {allowed}")]
        return [problem]
    return []


def _entry_problems(value: list[Any], kind: Any, path: str) -> list[Problem]:
    """Return the problems of a list's entries, a thousand at most: no valid list is longer, and clients choose it."""
    entry = _entry_of(kind)
    if entry is None:
        return []
    found = (_field_problems(one, entry, f"{path}[{place}]") for place, one in enumerate(value[:_MOST_ENTRIES]))
    return list(islice(chain.from_iterable(found), MAX_PROBLEMS + 1))


@cache
def _entry_of(kind: Any) -> Any:
    """Return the type of the entries of the list that a field holds; None if it holds another type."""
    if get_origin(kind) is Annotated:
        return _entry_of(get_args(kind)[0])
    members = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    return next((get_args(one)[0] for one in members if get_origin(one) is list), None)


@cache
def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """Return the struct that a field holds, also where it may be null or left out; None if it holds another type."""
    if get_origin(kind) is Annotated:
        return _struct_of(get_args(kind)[0])
    members = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    return next((one for one in members if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _plain(what: str, name: str) -> str:
    """Return msgspec's message about the field `name`, without Python's names for types."""
    for pattern, words in _WORDS:
        if found := pattern.fullmatch(what):
            return f"{name} " + words.format(*map(_kind, found.groups()))
    return what


def _kind(name: str) -> str:
    return " or ".join(_KINDS.get(one, one) for one in name.split(" | "))


def _code_of(what: str) -> str:
    if "missing required field" in what:
        return "REQUIRED"
    if "unknown field" in what:
        return "UNKNOWN_FIELD"
    if "of length <=" in what:
        return "TOO_LONG"
    if re.match(r"Expected `[^`]*`, got `", what):
        return "INVALID_TYPE"
    return "INVALID_VALUE"


def decode_struct(raw: bytes, kind: type[StructT]) -> StructT:
    """Decode a JSON object to a struct; raises 400, or 422 with every problem."""
    return decode_object(raw, kind, "MALFORMED_JSON", "the body")


def decode_object(raw: bytes, kind: type[StructT], malformed: str, what: str) -> StructT:
    """Decode a JSON object to a struct; raises the code `malformed` (400) about `what`, or 422 with every problem."""
    try:
        text = json_text(raw)
        return decode_json(text, kind)
    except msgspec.ValidationError as error:
        raise invalid(_every_problem(text, kind, malformed, what) or [problem_of(error)]) from error
    except UNREADABLE as error:
        raise ApiError(malformed, f"{what} is not JSON: {words_of(error)}") from error


def _every_problem(raw: bytes, kind: type[StructT], malformed: str, what: str) -> list[Problem]:
    """Return every problem of an object; behind the first of them the text may not even be JSON."""
    try:
        value = read_object(raw)
    except UNREADABLE as error:
        raise ApiError(malformed, f"{what} is not JSON: {words_of(error)}") from error
    if value is None:
        raise ApiError(malformed, f"{what} is not a JSON object")
    return problems_of(value, kind)


def struct_of(value: dict[str, object], kind: type[StructT]) -> StructT:
    """Convert an untyped object to a struct; raises 422 with every problem."""
    converted = convert(value, kind)
    if isinstance(converted, list):
        raise invalid(converted)
    return converted
