"""Inflating: bodies that arrive compressed, a piece at a time, so that a small body cannot fill memory.

aiohttp's own decompression is switched off: it answers unknown codings in a form of its own, or passes them through
unread, and takes a gzip body that was cut off for a whole one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from services.ingest.problems import ApiError

PIECE_BYTES = 65536
# Text that people send shrinks to a tenth, the most repetitive to a hundredth; deflate can do a thousandth.
_MOST_TIMES = 200
_ALWAYS_ALLOWED = 1_048_576
# RFC 9110, 8.4.1: "x-gzip" is an older name of gzip
_CODINGS = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_GZIP = 31
_ZLIB = 15
_RAW = -15


class Inflater:
    """Inflates one body; raises ApiError where it is not what its Content-Encoding says."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding == "gzip"
        self._coding = coding
        self._engine = zlib.decompressobj(_GZIP) if self._gzip else None
        self._taken = self._given = 0

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk inflates to, at most 64 KB at a time."""
        if not chunk:
            return
        if self._engine is None:
            # senders of "deflate" leave out the zlib header now and then (RFC 9110, 8.4.1.2)
            self._engine = zlib.decompressobj(_ZLIB if chunk[0] & 0x0F == 8 else _RAW)
        data = chunk
        self._taken += len(chunk)
        while True:
            if self._engine.eof:
                if not data.strip(b"\0"):
                    return  # nothing, or the padding that some tools write
                self._begin_member()
            try:
                piece = self._engine.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise self._broken("it cannot be decompressed") from error
            if piece:
                self._given += len(piece)
                if self._given > max(_ALWAYS_ALLOWED, _MOST_TIMES * self._taken):
                    raise _too_dense()
                yield piece
            data = self._engine.unused_data or self._engine.unconsumed_tail
            if not data and len(piece) < PIECE_BYTES:
                return

    def finish(self) -> None:
        """Note the end of the body; raises ApiError where more should have come."""
        if self._engine is not None and not self._engine.eof:
            raise self._broken("it ends too early")

    def _begin_member(self) -> None:
        """Go on with the next member of a gzip file (RFC 1952, 2.2)."""
        if not self._gzip:
            raise self._broken("more follows its end")
        self._engine = zlib.decompressobj(_GZIP)

    def _broken(self, why: str) -> ApiError:
        what = f"the body is not {self._coding}, as its Content-Encoding says: {why}"
        return ApiError("MALFORMED_REQUEST", what, headers={"Connection": "close"})


def _too_dense() -> ApiError:
    what = f"the body inflates to more than {_MOST_TIMES} times its size; send it in parts, or uncompressed"
    return ApiError("BODY_TOO_LARGE", what, headers={"Connection": "close"})


def coding_of(header: str) -> str:
    """Return the coding that a Content-Encoding header names, "" for none; raises ApiError 415 for one not read."""
    named = header.strip().lower()
    if named not in _CODINGS:
        what = f"the Content-Encoding {header.strip()[:60]!r} is not one that this API reads: gzip, deflate, identity"
        raise ApiError("UNSUPPORTED_ENCODING", what, headers={"Accept-Encoding": "gzip, deflate, identity"})
    return _CODINGS[named]
