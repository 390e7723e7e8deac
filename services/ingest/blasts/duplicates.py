"""Duplicates: finds repeated addresses in a blast of any length without keeping the addresses.

Each address leaves a 64-bit fingerprint (Python's keyed string hash) in one of 64 partitions, which move to disk as
they grow; a short blast has only one. Two different addresses share a fingerprint in one of 37 million blasts of a
million recipients.
Positions count the (recipient, channel) pairs of a blast from 0.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PARTITIONS = 64
_IN_MEMORY = 1_000_000
_FEW = 500


class Places:
    """A set of positions up to `last`, one bit each: a file of a million duplicates must not fill memory."""

    def __init__(self, last: int = -1) -> None:
        self._bits = bytearray((last >> 3) + 1)
        self._count = 0

    def add(self, place: int) -> None:
        """Add a position that the set does not contain yet."""
        self._bits[place >> 3] |= 1 << (place & 7)
        self._count += 1

    def __contains__(self, place: int) -> bool:
        return bool(self._count) and bool(self._bits[place >> 3] >> (place & 7) & 1)

    def __len__(self) -> int:
        return self._count


class Duplicates:
    """Collects fingerprints in order, then finds the positions that repeat an earlier one."""

    def __init__(self, folder: Path, in_memory: int = _IN_MEMORY) -> None:
        self._folder = folder
        self._limit = in_memory
        self._held = 0
        self._last = -1
        self._hashes = [array("q")]
        self._places = [array("Q")]
        self._mask = 0
        self._files: list[BinaryIO] = []

    def add(self, position: int, channel: int, address: str) -> None:
        """Add the address at a position; the same address on another channel is not a duplicate."""
        fingerprint = hash((channel, address))
        partition = fingerprint & self._mask
        self._hashes[partition].append(fingerprint)
        self._places[partition].append(position)
        self._held += 1
        self._last = position
        if self._held == _FEW and not self._mask:
            self._divide()
        if self._held >= self._limit:
            self._spill()

    def positions(self) -> Places:
        """Return every position whose address also occurs at an earlier one."""
        found = Places(self._last)
        for hashes, places in self._partitions():
            if len(set(hashes)) < len(hashes):
                for place in _repeated(hashes, places):
                    found.add(place)
        return found

    def close(self) -> None:
        """Delete the files on disk."""
        for file in self._files:
            file.close()
        self._files = []

    def _divide(self) -> None:
        """Spread what is held over all partitions."""
        (hashes,), (places,) = self._hashes, self._places
        self._mask = _PARTITIONS - 1
        self._hashes = [array("q") for _ in range(_PARTITIONS)]
        self._places = [array("Q") for _ in range(_PARTITIONS)]
        for fingerprint, place in zip(hashes, places, strict=True):
            self._hashes[fingerprint & self._mask].append(fingerprint)
            self._places[fingerprint & self._mask].append(place)

    def _spill(self) -> None:
        if not self._mask:
            self._divide()
        if not self._files:
            self._files = [_file(self._folder) for _ in range(2 * _PARTITIONS)]
        for partition in range(_PARTITIONS):
            self._hashes[partition].tofile(self._files[2 * partition])
            self._places[partition].tofile(self._files[2 * partition + 1])
            self._hashes[partition] = array("q")
            self._places[partition] = array("Q")
        self._held = 0

    def _partitions(self) -> Iterator[tuple[array[int], array[int]]]:
        if self._files:
            self._spill()
        for partition in range(len(self._hashes)):
            if self._files:
                yield _read(self._files[2 * partition], "q"), _read(self._files[2 * partition + 1], "Q")
            else:
                yield self._hashes[partition], self._places[partition]


def _file(folder: Path) -> BinaryIO:
    return tempfile.TemporaryFile(dir=folder)


def _read(file: BinaryIO, kind: str) -> array[int]:
    file.seek(0)
    values: array[int] = array(kind)
    values.frombytes(file.read())
    return values


def _repeated(hashes: array[int], places: array[int]) -> Iterator[int]:
    seen: set[int] = set()
    for fingerprint, place in zip(hashes, places, strict=True):
        if fingerprint in seen:
            yield place
        seen.add(fingerprint)
