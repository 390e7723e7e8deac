"""Parses a server's replies (RFC 5321, 4.2.1) as leniently as other mail clients do.

Lines may end in a bare LF, be blank, have no text, lack a code inside a multi-line reply, or contain bytes of any
charset. The code of a reply is that of its last line. Only lines that cannot be part of a reply are errors.
"""

from __future__ import annotations

import re
from collections.abc import MutableSequence
from functools import lru_cache

from aiosmtplib import SMTPResponse, SMTPResponseException

from shared.foreign_text import legible

MOST_BYTES = 1024 * 1024
KEPT_BYTES = 16 * 1024
# a server's replies to the end of a message and to the commands of the next arrive together
_LONGEST_REPEATED = 800
INVALID = -1
_BLANK = b" \t\r\x00"
_OLD_AUTH = re.compile(r"^\s*auth=", re.IGNORECASE)
_LINE = re.compile(rb"([2-5][0-9]{2})([ \t-]?)(.*)", re.DOTALL)


class ReplyReader:
    """Takes bytes as they arrive and returns each reply once it is complete.

    It keeps the first 16 KB of a reply's text. A reply of more than a megabyte is an error.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[str] = []
        self._kept = 0
        self._seen = 0
        self._continues = False

    @property
    def midway(self) -> bool:
        """Whether a part of a reply has arrived; blank lines do not count."""
        return self._continues or bool(self._rest.strip(_BLANK))

    def feed(self, data: bytes, replies: MutableSequence[SMTPResponse]) -> None:
        """Add each reply that `data` completes to `replies`, up to anything that is not a reply.

        That raises SMTPResponseException.
        """
        if not self._rest and not self._continues and len(data) <= _LONGEST_REPEATED and data.endswith(b"\n"):
            # The reply to the end of a message may have words of its own. Those to the commands of the next arrive with
            # it, and are those that the server has sent before.
            end = data.index(b"\n") + 1
            first, others = _whole(data[:end]), _whole(data[end:])
            if first is not None and others is not None:
                replies += first
                replies += others
                self._seen = 0
                return
        before = len(replies)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:KEPT_BYTES]
        for line in lines:
            reply = self._read(line.strip(_BLANK))
            if reply is not None:
                replies.append(reply)
        # of the reply that is under way
        self._seen = len(rest) if len(replies) > before else self._seen + len(data)
        if self._seen > MOST_BYTES:
            raise SMTPResponseException(INVALID, "the reply is too long")

    def _read(self, line: bytes) -> SMTPResponse | None:
        """Take one line; return the reply that it completes, or None."""
        if not line:
            return None
        found = _LINE.fullmatch(line)
        if found is None:
            if not self._continues:
                raise SMTPResponseException(INVALID, f"not a reply: {legible(line, 200)}")
            self._keep(line)
            return None
        self._keep(found[3].strip(_BLANK))
        self._continues = found[2] == b"-"
        if self._continues:
            return None
        text = "\n".join(self._lines)
        self._lines, self._kept = [], 0
        return SMTPResponse(int(found[1]), text)

    def _keep(self, text: bytes) -> None:
        text = text[: max(KEPT_BYTES - self._kept, 0)]
        self._kept += len(text) + 1
        if self._kept <= KEPT_BYTES or text:
            self._lines.append(legible(text, KEPT_BYTES))


@lru_cache(256)
def _whole(lines: bytes) -> tuple[SMTPResponse, ...] | None:
    """Return replies of one line each; None if a line is blank, or that of a longer reply or of no reply.

    Cached, since most servers reply to each message's MAIL, RCPT and DATA in the same words.
    """
    replies: list[SMTPResponse] = []
    for line in lines.split(b"\n")[:-1]:
        found = _LINE.fullmatch(line.strip(_BLANK))
        if found is None or found[2] == b"-":
            return None
        replies.append(SMTPResponse(int(found[1]), legible(found[3].strip(_BLANK), KEPT_BYTES)))
    return tuple(replies)


def read_extensions(text: str) -> tuple[dict[str, str], list[str]]:
    """Return what a reply to EHLO offers: parameters by extension, and the AUTH methods; all names in lower case.

    The first line is the server's name. Old servers write `AUTH=LOGIN`, from the draft that RFC 4954 replaced; some
    write both forms.
    """
    extensions: dict[str, str] = {}
    methods: list[str] = []
    for line in text.split("\n")[1:]:
        name, *parameters = _OLD_AUTH.sub("auth ", line).split() or [""]
        name = name.lower()
        if name == "auth":
            named = " ".join(parameters).lower().replace(",", " ").split()  # some servers separate them by commas
            methods += [one for one in named if one not in methods]
            parameters = [one.upper() for one in methods]
        if name:
            extensions[name] = " ".join(parameters)
    return extensions, methods
