"""Phone texts: a cell that should hold one phone number becomes its digits, or a cause why it is not one number.

The grammar is strict, since a digit too many or too few reaches a stranger. It knows how people write one number:
groups with spaces, dots, dashes, one slash after the area code, brackets around a country or area code, `(0)` as the
hint of a trunk prefix, `tel:` before it. Digits of every script count, since each has one value. Marks that cannot be
seen are left out. Everything else is refused with the words that name it.
"""

from __future__ import annotations

import re

from shared.addresses import plain_signs

MAX_CHARS = 64

_DIALLED = re.compile(r"(?:tel|whatsapp):", re.IGNORECASE)

_DECIMAL = re.compile(
    r"""[+-]? (?:
        [0-9]+ (?:[.,][0-9]*)? E [+-]? [0-9]+           # scientific
        | [0-9]{7,} [.,] [0-9]*                         # seven digits and more before the point
        | [1-9][0-9]* \. [0-9]+                         # one dot and no 0 or + before it: no area code, so a point
        | [0-9(][0-9 ()/-]* \. [0-9]{0,2}               # two digits at most behind the only one
        | [0-9]{1,3} (?:,[0-9]{3})+ (?:\.[0-9]*)?       # thousands set apart by commas
        | [0-9][0-9 .']* , [0-9]{1,2}                   # by anything else, and a comma as the point
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_EXTENSION = re.compile(
    r"(?:#|(?<![a-z])(?:x|ext(?:n|ension)?|ekst(?:ensi)?|dw|ramal|anexo|poste))[ .:=]*[0-9]+$", re.IGNORECASE
)
_AND = r" *(?:[;,|&\n\r]|or|and|atau|dan|oder|und|ou|et) *| +[oye] +"
_TWO = re.compile(rf"[0-9)](?:{_AND})[(+]*[0-9]|[0-9)][ /.-]*\+", re.IGNORECASE)
# an area code, perhaps with its country's, then a slash
_SLASHED = re.compile(r"(?:(?:\+|00)[0-9]{1,3}[ .-]*(?:\(0\)[ .-]*)?)?\(?[0-9]{1,6}\)?[ ]*/[ ]*\(?[0-9]")
_BRACKETS = re.compile(r"[^()]*(?:\( *\+?[0-9][0-9 .-]{0,8}\)[^()]*){1,2}")
_NUMBER = re.compile(r"\(?\+? *\(?[0-9](?:[ .()/-]*[0-9])*")
_PLUS_ZERO = re.compile(r"\(?\+[ (]*0")
_BEHIND_AREA = 4

DECIMAL = (
    "This looks like a spreadsheet's decimal number. Format the column as text and write the phone number in full."
)
TWO_NUMBERS = "This looks like two numbers. Give one."
EXTENSION = "This has an extension, which cannot receive messages. Give the number without it."
NOTE = "This has a note in brackets. Give the number alone."
LETTERS = "This contains letters. Give the number alone, in digits."
NO_CODE = "This is not a valid phone number. It has a 0 after the +: write the country code there, or leave out the +."
SHAPE = "This is not written as a phone number. Give its digits, with + and the country code or without."


class PhoneTextError(ValueError):
    """A text that is not one phone number; the message says why, for the client."""


def phone_digits(text: str) -> str:
    """Return the digits of the one number in a text, after `+` where they begin with a country code.

    Raises PhoneTextError. Never adds, drops or changes a digit but for `00`, which becomes `+`.
    """
    if len(text) > MAX_CHARS:
        raise PhoneTextError(f"This is longer than {MAX_CHARS} characters. Give one phone number.")
    written = _bare(plain_signs(text))
    if cause := _cause(written):
        raise PhoneTextError(cause)
    digits = re.sub(r"[^0-9]", "", written)
    if digits.startswith("00"):
        return f"+{digits[2:]}"
    return f"+{digits}" if "+" in written else digits


def groups(text: str) -> list[str]:
    """Return the groups of digits of a text that `phone_digits` can read."""
    return re.findall("[0-9]+", plain_signs(text))


def _bare(text: str) -> str:
    """Take away what programs put around a number: a spreadsheet's mark of a text, quotes, a URI's scheme."""
    text = text.removeprefix("=")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    text = text.lstrip("'\u2018\u2019`").strip()
    if found := _DIALLED.match(text):
        text = text[found.end() :].strip()
    inner = text[1:-1]
    return inner.strip() if text.startswith("(") and text.endswith(")") and not {"(", ")"} & set(inner) else text


def _cause(text: str) -> str:
    """Return why a text is not one number, "" if it is one."""
    if cause := _known_slip(text) or _stray_sign(text):
        return cause
    if not _NUMBER.fullmatch(text):
        return SHAPE
    return NO_CODE if _PLUS_ZERO.match(text) else ""


def _known_slip(text: str) -> str:
    if _DECIMAL.fullmatch(text):
        return DECIMAL
    if _EXTENSION.search(text):
        return EXTENSION
    return TWO_NUMBERS if _TWO.search(text) else ""


def _stray_sign(text: str) -> str:
    if any(map(str.isalpha, text)):
        return LETTERS
    if "/" in text and (text.count("/") > 1 or not _after_area_code(text)):
        return TWO_NUMBERS
    if stray := re.search(r"[^0-9 ./()+-]", text):
        return f"This contains {stray[0]!r}. Give the number alone, in digits."
    return NOTE if ("(" in text or ")" in text) and not _in_its_brackets(text) else ""


def _after_area_code(text: str) -> bool:
    """Return whether the slash of a text parts an area code from a number long enough to follow it."""
    return _SLASHED.match(text) is not None and _count(text.partition("/")[2]) >= _BEHIND_AREA


def _in_its_brackets(text: str) -> bool:
    """Return whether brackets are around country and area codes alone, with a number behind them."""
    return _BRACKETS.fullmatch(text) is not None and _count(text.rpartition(")")[2]) >= _BEHIND_AREA


def _count(text: str) -> int:
    return sum(map(str.isdecimal, text))
