"""Phone texts: a cell that should contain one phone number becomes its digits, or the reason why it does not.

The grammar is strict, since one digit too many or too few reaches the wrong person. It accepts the common ways to
write one number: groups separated by spaces, dots or dashes, one slash after the area code, brackets around a country
or area code, `(0)` for a trunk prefix, `tel:` before it. Digits of every script are accepted, since each has one value.
Invisible marks are ignored. Everything else is refused with a message that names the cause.
"""

from __future__ import annotations

import re

from shared.addresses import TEXT_MARKS, plain_signs

MAX_CHARS = 64

_DIALLED = re.compile(r"(?:tel|whatsapp):", re.IGNORECASE)

_DECIMAL = re.compile(
    r"""[+-]? (?:
        [0-9]+ (?:[.,][0-9]*)? E [+-]? [0-9]+           # scientific
        | [0-9]{7,} [.,] [0-9]*                         # seven digits and more before the point
        | [1-9][0-9]* \. [0-9]+                         # one dot, no leading 0 or +: not an area code but a fraction
        | [0-9(][0-9 ()/-]* \. [0-9]{0,2}               # one dot, with at most two digits after it
        | [0-9]{1,3} (?:,[0-9]{3})+ (?:\.[0-9]*)?       # thousands separated by commas
        | [0-9][0-9 .']* , [0-9]{1,2}                   # by another sign, with a decimal comma
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_EXTENSION = re.compile(
    r"(?:#|(?<![a-z])(?:x|ext(?:n|ension)?|ekst(?:ensi)?|dw|ramal|anexo|poste))[ .:=]*[0-9]+$", re.IGNORECASE
)
_AND = r" *(?:[;,|&\n\r]|or|and|atau|dan|oder|und|ou|et) *| +[oye] +"
_TWO = re.compile(rf"[0-9)](?:{_AND})[(+]*[0-9]|[0-9)][ /.-]*\+", re.IGNORECASE)
# an area code, optionally after a country code, then a slash
_SLASHED = re.compile(r"(?:(?:\+|00)[0-9]{1,3}[ .-]*(?:\(0\)[ .-]*)?)?\(?[0-9]{1,6}\)?[ ]*/[ ]*\(?[0-9]")
_BRACKETS = re.compile(r"[^()]*(?:\( *\+?[0-9][0-9 .-]{0,8}\)[^()]*){1,2}")
_NUMBER = re.compile(r"\(?\+? *\(?[0-9](?:[ .()/-]*[0-9])*")
_PLUS_ZERO = re.compile(r"\(?\+[ (]*0")
_BEHIND_AREA = 4

DECIMAL = (
    "This looks like a spreadsheet's decimal number. Format the column as text and write the phone number in full."
)
TWO_NUMBERS = "This looks like two numbers. Give only one."
EXTENSION = "This has an extension, which cannot receive messages. Give the number without it."
NOTE = "This has a note in brackets. Give only the number."
LETTERS = "This contains letters. Give only the number, in digits."
NO_CODE = "This is not a valid phone number. It has a 0 after the +: write the country code there, or leave out the +."
SHAPE = "This is not written like a phone number. Give its digits, with or without + and the country code."


class PhoneTextError(ValueError):
    """A text that is not one phone number; the message tells the client why."""


def phone_digits(text: str) -> str:
    """Return the digits of the only number in a text, after `+` where they begin with a country code.

    Raises PhoneTextError. Never adds, drops or changes a digit, except that a leading `00` becomes `+`.
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
    """Strip what programs put around a number: a spreadsheet's text mark, quotes, a URI scheme."""
    text = text.removeprefix("=")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    text = text.lstrip(TEXT_MARKS).strip()
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
        return f"This contains {stray[0]!r}. Give only the number, in digits."
    return NOTE if ("(" in text or ")" in text) and not _in_its_brackets(text) else ""


def _after_area_code(text: str) -> bool:
    """Return whether the slash separates an area code from a long enough number.

    Without a trunk prefix or a country code, an area code is shorter: 538868/538895 are two numbers of one town.
    """
    before, _, after = text.partition("/")
    plain = before.lstrip("( ")[:1] not in {"0", "+"}
    fewest = _count(before) + 1 if plain else _BEHIND_AREA
    return _SLASHED.match(text) is not None and _count(after) >= max(fewest, _BEHIND_AREA)


def _in_its_brackets(text: str) -> bool:
    """Return whether brackets enclose only country and area codes, with a number after them."""
    return _BRACKETS.fullmatch(text) is not None and _count(text.rpartition(")")[2]) >= _BEHIND_AREA


def _count(text: str) -> int:
    return sum(map(str.isdecimal, text))
