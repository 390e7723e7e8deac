"""The mailbox: the last accepted messages in memory, and a line in a file for each, written before the answer.

Lines are written with a single `write` to a file opened for appending, so they survive a kill -9 of the sandbox. Every
message that was answered as accepted is in the file, which tests count deliveries with.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from shared.errors import SettingsError

KEPT_BYTES = 64 * 1024
_TORN_BLOCK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """An accepted message; `source` is its beginning, as received."""

    channel: str
    to: str
    job_id: str
    message_id: str
    subject: str
    sender: str = ""
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Kept:
    """A message with its number, counted from 1, and the time it was accepted (ms since the epoch)."""

    number: int
    at_ms: int
    message: Message


class Mailbox:
    """Keeps the last messages and appends each to the file."""

    def __init__(self, path: Path, keep: int) -> None:
        self._kept: deque[Kept] = deque(maxlen=keep)
        self._count = 0
        self._fd = _open(path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def count(self) -> int:
        """The number of messages accepted since the start or the last `clear`."""
        return self._count

    def accept(self, messages: list[Message]) -> None:
        """Append messages to the file in one write, then keep them; raises OSError if the write fails."""
        at_ms = time.time_ns() // 1_000_000
        lines = b"".join(_line(at_ms, message) for message in messages)
        written = os.write(self._fd, lines)
        if written != len(lines):
            # the disk is full: remove the partial line
            os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_END) - written)
            raise OSError("only partly written")
        for message in messages:
            self._count += 1
            self._kept.append(Kept(self._count, at_ms, message))

    def newest(self) -> Iterator[Kept]:
        """Return the kept messages, the newest first."""
        return reversed(self._kept)

    def find(self, number: int) -> Kept | None:
        """Return a message by its number, or None if it is no longer kept."""
        return next((kept for kept in self._kept if kept.number == number), None)

    def clear(self) -> None:
        """Forget all messages and truncate the file."""
        os.ftruncate(self._fd, 0)
        self._kept.clear()
        self._count = 0


def _line(at_ms: int, message: Message) -> bytes:
    fields = {
        "at_ms": at_ms,
        "channel": message.channel,
        "to": message.to,
        "jobId": message.job_id,
        "messageId": message.message_id,
        "subject": message.subject,
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError([f"cannot write {path}: {error.strerror}"]) from error
    _cut_torn_line(fd)
    return fd


def _cut_torn_line(fd: int) -> None:
    """Remove an incomplete last line; only a power loss leaves one, and its message was never answered."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _TORN_BLOCK, max(0, size - _TORN_BLOCK))
    os.ftruncate(fd, size - (len(tail) - tail.rfind(b"\n") - 1))
