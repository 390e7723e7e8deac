"""The spool: accepted recipients kept between the two passes, in memory and then on disk.

Its files are anonymous: they vanish with the process, however it ends.
"""

from __future__ import annotations

import errno
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from services.ingest.blasts.recipients import Accepted
from services.ingest.http.errors import ApiError
from shared.logs import get_logger
from shared.numbers import packed_number

# the most recipients in a block; two full blocks make a full chunk of jobs
BLOCK = 250
_IN_MEMORY_BYTES = 4 * 1024 * 1024
_BLOCK_BYTES = 1024 * 1024
_LENGTH = struct.Struct(">I")
_ARRAY = struct.Struct(">BI")
_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT}

log = get_logger()


_encoder = msgspec.msgpack.Encoder(enc_hook=packed_number)
_decoder = msgspec.msgpack.Decoder(list[Accepted])


@contextmanager
def disk_trouble() -> Iterator[None]:
    """Raise 503 where the disk is full or not writable."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        log.exception("writing the spool failed")
        raise ApiError("STORAGE_UNAVAILABLE", headers={"Retry-After": "10"}) from error


def temporary_file(folder: Path) -> tempfile.SpooledTemporaryFile[bytes]:
    """Open a file that stays in memory up to 4 MB and vanishes when it is closed."""
    return tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES, mode="w+b", dir=str(folder))


class BlockFile:
    """Packed blocks in a temporary file, which can be read back in order any number of times."""

    def __init__(self, folder: Path) -> None:
        self._file = temporary_file(folder)

    def write(self, *parts: bytes | bytearray) -> None:
        """Add one block, in parts; raises OSError where the disk is full."""
        self._file.write(_LENGTH.pack(sum(map(len, parts))))
        for part in parts:
            self._file.write(part)

    def blocks(self) -> Iterator[bytes]:
        """Yield every block."""
        self._file.seek(0)
        while head := self._file.read(_LENGTH.size):
            yield self._file.read(_LENGTH.unpack(head)[0])

    def close(self) -> None:
        """Delete it."""
        self._file.close()


class Spool:
    """Takes recipients one by one and returns them in blocks, in order, any number of times."""

    def __init__(self, folder: Path) -> None:
        self._file = BlockFile(folder)
        self._block = bytearray()
        self._held = 0
        self.count = 0

    def add(self, accepted: Accepted) -> None:
        """Keep a recipient; raises OSError where the disk is full."""
        _encoder.encode_into(accepted, self._block, -1)
        self._held += 1
        self.count += 1
        # limit the bytes as well: recipients may carry megabytes
        if self._held >= BLOCK or len(self._block) >= _BLOCK_BYTES:
            self._flush()

    def blocks(self) -> Iterator[list[Accepted]]:
        """Return every recipient, at most 250 at a time."""
        self._flush()
        return map(_decoder.decode, self._file.blocks())

    def close(self) -> None:
        """Delete it."""
        self._file.close()

    def _flush(self) -> None:
        if not self._held:
            return
        # the packed recipients, preceded by the head of a msgpack array
        self._file.write(_ARRAY.pack(0xDD, self._held), self._block)
        self._block.clear()
        self._held = 0
