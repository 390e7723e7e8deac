"""CSV as text: chunks of bytes become pieces of text with uniform line ends, whichever spreadsheet wrote them.

The encoding follows from a byte order mark, or from UTF-16's zero bytes; otherwise it is the one that the Content-Type
names, or UTF-8. Other encodings cannot be distinguished by their bytes: a file in one of them that does not name it is
refused, since a wrong guess would garble names. Line ends are LF, CRLF or CR, in any mixture; all become LF, within
cells too.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator

from services.ingest.http.errors import ApiError

_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FILES = {
    b"PK\x03\x04": "an Excel or ZIP file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"%PDF": "a PDF file",
    b"\x1f\x8b": "a compressed file",
}
_LONGEST_MARK = 4
_CODECS = frozenset(
    {"utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "koi8-r", "koi8-u", "mac-roman", "tis-620"}
    | {"shift_jis", "cp932", "euc_jp", "gb2312", "gbk", "gb18030", "big5", "euc_kr", "cp949"}
    | {f"iso8859-{part}" for part in range(1, 17)}
    | {f"cp{page}" for page in (437, 850, 852, 858, 866, 874, *range(1250, 1259))}
)
# the meaning of these names on the web (WHATWG Encoding, section 4.2)
_MEANT = {"ascii": "utf-8", "iso8859-1": "cp1252"}


def codec_of(charset: str) -> str:
    """Return the codec of a Content-Type's charset, "" for none; raises ApiError if it is unknown."""
    if not charset:
        return ""
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        name = ""
    name = _MEANT.get(name, name)
    if name not in _CODECS:
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"the charset {charset[:40]!r} is not supported: use utf-8")
    return name


async def text_of(chunks: AsyncIterator[bytes], codec: str = "") -> AsyncIterator[str]:
    """Yield the text of a file with LF line ends; raises ApiError MALFORMED_CSV."""
    reader: _Text | None = None
    start = b""
    async for piece in chunks:
        chunk = piece
        if reader is None:
            start += chunk
            if len(start) < _LONGEST_MARK:
                continue
            reader, chunk = _Text(_encoding(start, codec)), start
        yield reader.take(chunk)
    if reader is None:
        reader = _Text(_encoding(start, codec))
        yield reader.take(start)
    yield reader.take(b"", final=True)


def _encoding(start: bytes, codec: str) -> str:
    for beginning, what in _OTHER_FILES.items():
        if start.startswith(beginning):
            raise ApiError("MALFORMED_CSV", f"this is {what}, not CSV: save it as 'CSV UTF-8'")
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    if len(start) > 1 and (start[0] == 0) != (start[1] == 0):
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return codec or "utf-8"


class _Text:
    """Decodes a file piece by piece, and counts its lines for error messages."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._held = ""
        self._line = 1

    def take(self, chunk: bytes, *, final: bool = False) -> str:
        """Return the text that the chunk completes; a CR at its end waits for the LF that may follow."""
        try:
            text = self._held + self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise ApiError("MALFORMED_CSV", self._undecodable(error)) from error
        self._held = ""
        if text.endswith("\r") and not final:
            self._held, text = "\r", text[:-1]
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if "\0" in text:
            line = self._line + text.partition("\0")[0].count("\n")
            raise ApiError("MALFORMED_CSV", f"line {line} contains a NUL character: this is not a text file")
        self._line += text.count("\n")
        return text

    def _undecodable(self, error: UnicodeDecodeError) -> str:
        name = self._encoding.removesuffix("-sig").upper()
        if name != "UTF-8":
            return f"the file is not valid {name}: save it as 'CSV UTF-8'"
        before = (self._held.encode() + error.object[: error.start]).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        line = self._line + before.count(b"\n")
        return (
            f"line {line} is not UTF-8: save the file as 'CSV UTF-8', "
            "or name its charset, as in Content-Type: text/csv; charset=windows-1252"
        )
