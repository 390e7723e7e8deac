"""The journal of a sender: what its workers have taken in hand, for the sender that comes after it.

A job is noted in a small file when a worker takes it, before its message is rendered. Whether the provider accepted
it, with its `sent` event, or refused it is noted too. The file is mapped into memory, so a note takes about a
microsecond, and it outlives the process: the kernel keeps its pages after a kill -9. Nothing is flushed to the disk.
After a loss of the machine the file may be older than the last notes, so it counts only until the next boot.

The sender holds a lock (flock) on its file for as long as it lives. A process that can take that lock knows that the
sender is gone (`shared.sending.takeover`). The file is locked before it has its name, so no reader meets it unlocked.

Layout: a header of 4,096 bytes (`_MAGIC`, the flag `incomplete`, the length of the owner's JSON in 2 bytes, the JSON),
then slots of 2,048 bytes: state, length of the key, length of the event (2 bytes each), key, event. The state is
written last, so a half-written slot is free.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shared.logs import get_logger

SUFFIX, UNNAMED = ".journal", ".new"
EVENT_BYTES = 1024
"""The longest event that every slot has room for."""

_MAGIC = b"kurirJ1\0"
_INCOMPLETE = len(_MAGIC)
_OWNER = _INCOMPLETE + 1
_HEADER_BYTES, _SLOT_BYTES = 4096, 2048
_LENGTH = struct.Struct("<H")
_LENGTHS = struct.Struct("<HH")
_BODY = 1 + _LENGTHS.size
_LONGEST_KEY = _SLOT_BYTES - _BODY - EVENT_BYTES
_FREE, _TAKEN, _ACCEPTED, _REFUSED = range(4)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Owner(msgspec.Struct, frozen=True):
    """Whose journal a file is: the sender, and the hash tag of the partition that it works."""

    sender_id: str
    partition: str


class _Head(msgspec.Struct, frozen=True):
    owner: Owner
    boot: str


class Journal:
    """A sender's own journal; `slots` jobs fit at a time. It is `complete` unless a job found no room."""

    def __init__(self, folder: Path, owner: Owner, slots: int) -> None:
        """Create and lock the file; raises OSError if that is not possible."""
        head = msgspec.json.encode(_Head(owner, _boot()))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{owner.sender_id}{owner.partition}{SUFFIX}"
        self.complete = True
        unnamed = self.path.with_suffix(UNNAMED)
        self._file = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # every page gets its place on the disk now: a write to a mapped page that finds none ends the process
            os.posix_fallocate(self._file, 0, _HEADER_BYTES + slots * _SLOT_BYTES)
            self._map = mmap.mmap(self._file, 0)
            _LENGTH.pack_into(self._map, _OWNER, len(head))
            self._map[_OWNER + _LENGTH.size : _OWNER + _LENGTH.size + len(head)] = head
            self._map[: len(_MAGIC)] = _MAGIC
            unnamed.rename(self.path)
        except BaseException:
            os.close(self._file)
            unnamed.unlink(missing_ok=True)
            raise
        self._free = list(range(_HEADER_BYTES, _HEADER_BYTES + slots * _SLOT_BYTES, _SLOT_BYTES))

    def take(self, key: str) -> int:
        """Note that a worker has taken the job of an entry; return its slot.

        Without room for it the journal is incomplete for good: its readers then learn nothing from it.
        """
        name = key.encode()
        if not self._free or len(name) > _LONGEST_KEY:
            self._give_up()
            return -1
        slot = self._free.pop()
        self._map[slot + 1 : slot + _BODY + len(name)] = _LENGTHS.pack(len(name), 0) + name
        self._map[slot] = _TAKEN
        return slot

    def _give_up(self) -> None:
        self._map[_INCOMPLETE] = 1
        if self.complete:
            self.complete = False
            get_logger().warning("journal_incomplete", file=self.path.name)

    def accept(self, slot: int, event: bytes) -> None:
        """Note the acceptance of a job, with its packed `sent` event of at most EVENT_BYTES."""
        if slot < 0 or len(event) > EVENT_BYTES:
            return
        (named,) = _LENGTH.unpack_from(self._map, slot + 1)
        start = slot + _BODY + named
        self._map[start : start + len(event)] = event
        _LENGTH.pack_into(self._map, slot + 1 + _LENGTH.size, len(event))
        self._map[slot] = _ACCEPTED

    def refuse(self, slot: int) -> None:
        """Note that the provider has certainly not accepted a job."""
        if slot >= 0:
            self._map[slot] = _REFUSED

    def free(self, slot: int) -> None:
        """Forget a job whose outcome the queue has."""
        if slot >= 0:
            self._map[slot] = _FREE
            self._free.append(slot)

    def close(self, *, keep: bool) -> None:
        """Release the file; `keep` it if the queue lacks the outcome of a job."""
        try:
            if not keep:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            get_logger().warning("journal_not_deleted", file=self.path.name, reason=str(error))
        self._map.close()
        os.close(self._file)


class Left(msgspec.Struct, frozen=True):
    """What a journal says of a sender's jobs, by the keys of their entries.

    `accepted` has the packed `sent` events. `taken` jobs may have been handed over. All others were not, or in vain.
    """

    owner: Owner
    accepted: dict[str, bytes]
    taken: frozenset[str]


class LeftJournal:
    """Another sender's journal; open it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def __enter__(self) -> LeftJournal:
        """Open the file; raises OSError."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self

    def __exit__(self, *_raised: object) -> None:
        os.close(self._file)

    def owner_is_gone(self) -> bool:
        """Return whether the sender has ended; until this journal is closed no other process is told so."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def age_s(self) -> float:
        """Return for how many seconds the file has not been written to."""
        return time.time() - os.fstat(self._file).st_mtime

    def delete(self) -> None:
        """Delete the file; raises OSError."""
        self.path.unlink(missing_ok=True)

    def read(self) -> Left | None:
        """Return what it says; None if it is incomplete, damaged, or from before the last boot. Raises OSError."""
        raw = os.pread(self._file, os.fstat(self._file).st_size, 0)
        try:
            return _read(raw)
        except (ValueError, IndexError, struct.error):
            return None


def _boot() -> str:
    """Return the name of this boot of the machine; raises OSError where the system has none."""
    return _BOOT.read_text("ascii").strip()


def _read(raw: bytes) -> Left | None:
    if not raw.startswith(_MAGIC) or raw[_INCOMPLETE]:
        return None
    start = _OWNER + _LENGTH.size
    head = msgspec.json.decode(raw[start : start + _LENGTH.unpack_from(raw, _OWNER)[0]], type=_Head)
    if head.boot != _boot():
        return None
    slots = list(_slots(raw))
    return Left(
        head.owner,
        {key: event for state, key, event in slots if state == _ACCEPTED},
        frozenset(key for state, key, _ in slots if state == _TAKEN),
    )


def _slots(raw: bytes) -> Iterator[tuple[int, str, bytes]]:
    for slot in range(_HEADER_BYTES, len(raw) - _SLOT_BYTES + 1, _SLOT_BYTES):
        if raw[slot] == _FREE:
            continue
        named, event = _LENGTHS.unpack_from(raw, slot + 1)
        if raw[slot] > _REFUSED or named > _LONGEST_KEY or event > EVENT_BYTES:
            raise ValueError("not a slot")
        start = slot + _BODY + named
        yield raw[slot], raw[slot + _BODY : start].decode(), raw[start : start + event]
