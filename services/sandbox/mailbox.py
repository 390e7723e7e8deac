"""The mailbox: the last accepted messages in memory, and a line in a file for each, written before the answer.

Lines are written with a single `write` to a file opened for appending, so they survive a kill -9 of the sandbox. Every
message that was answered as accepted is in the file, which tests count deliveries with.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from shared.errors import SettingsError

_TORN_BLOCK = 64 * 1024
_LONGEST_FIELD = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """An accepted message; `source` is as it was received. The recipients of one mail share the same bytes."""

    channel: str
    to: str
    job_id: str
    message_id: str
    subject: str
    sender: str = ""
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Kept:
    """A message with its number, counted from 1, and the time it was accepted (ms since the epoch).

    `size` is that of its whole source, of which the message may have only the beginning.
    """

    number: int
    at_ms: int
    message: Message
    size: int = 0


class Mailbox:
    """Keeps the last messages and appends each to the file.

    It keeps at most `keep` messages and `keep_bytes` of their sources, and drops the oldest beyond. Of a source larger
    than a quarter of that it keeps the beginning. Numbers are never used again, not even after `clear`.
    """

    def __init__(self, path: Path, keep: int, keep_bytes: int) -> None:
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._holders: dict[int, int] = {}
        self._bytes = 0
        self._last_number = 0
        self._count = 0
        self._changes = 0
        self._fd = _open(path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def count(self) -> int:
        """The number of messages accepted since the start or the last `clear`."""
        return self._count

    @property
    def kept_bytes(self) -> int:
        """The size of the kept sources; one that several messages share counts once."""
        return self._bytes

    @property
    def changes(self) -> int:
        """A number that grows with each change of what is kept."""
        return self._changes

    def accept(self, messages: list[Message]) -> None:
        """Append messages to the file in one write, then keep them; raises OSError if the write fails."""
        at_ms = time.time_ns() // 1_000_000
        messages = [_shortened(message) for message in messages]
        lines = b"".join(_line(at_ms, message) for message in messages)
        written = os.write(self._fd, lines)
        if written != len(lines):
            # the disk is full: remove the partial line
            os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_END) - written)
            raise OSError("only partly written")
        cut: dict[int, bytes] = {}  # by the source's identity, so that recipients share the beginning as well
        for message in messages:
            self._last_number += 1
            self._count += 1
            source = cut.setdefault(id(message.source), message.source[: self._keep_bytes // 4])
            self._hold(Kept(self._last_number, at_ms, replace(message, source=source), len(message.source)))
        self._changes += 1

    def newest(self) -> Iterator[Kept]:
        """Return the kept messages, the newest first."""
        return reversed(self._kept.values())

    def find(self, number: int) -> Kept | None:
        """Return a message by its number, or None if it is no longer kept."""
        return self._kept.get(number)

    def delete(self, number: int) -> bool:
        """Forget one message, whose line stays in the file; return whether it was kept."""
        kept = self._kept.pop(number, None)
        if kept is None:
            return False
        self._release(kept)
        self._changes += 1
        return True

    def clear(self) -> None:
        """Forget all messages and truncate the file."""
        os.ftruncate(self._fd, 0)
        self._kept.clear()
        self._holders.clear()
        self._bytes = self._count = 0
        self._changes += 1

    def _hold(self, kept: Kept) -> None:
        source = kept.message.source
        holders = self._holders.get(id(source), 0)
        self._holders[id(source)] = holders + 1
        self._bytes += 0 if holders else len(source)
        self._kept[kept.number] = kept
        while len(self._kept) > self._keep or (self._bytes > self._keep_bytes and len(self._kept) > 1):
            _, oldest = self._kept.popitem(last=False)
            self._release(oldest)

    def _release(self, kept: Kept) -> None:
        source = kept.message.source
        self._holders[id(source)] -= 1
        if not self._holders[id(source)]:
            del self._holders[id(source)]
            self._bytes -= len(source)


def _shortened(message: Message) -> Message:
    """Return a message whose fields have a bounded length, as the lines of the file must."""
    longest = _LONGEST_FIELD
    return replace(
        message,
        to=message.to[:longest],
        job_id=message.job_id[:longest],
        message_id=message.message_id[:longest],
        subject=message.subject[:longest],
        sender=message.sender[:longest],
    )


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
