"""The sinks of the logs: files that follow rotation, a readable console, and the system log.

`shared.logs` renders each line and passes it to them. A sink that fails loses lines; it never fails its caller.
"""

from __future__ import annotations

import logging.handlers
import os
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.errors import SettingsError
from shared.events import SystemEvent
from shared.foreign_text import legible, valid

EventDict = MutableMapping[str, Any]

URGENT = 30
"""The weight of a warning: lines of this weight and above are written immediately, always shown, and shipped."""

_CONSOLE_LINES_PER_S = 50
_SHIP_BURST = 20.0
_SHIP_PER_S = 1.0
_SHIPPED_TEXT = 4096
_COLOURS = {
    "debug": "\x1b[2m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[31m",
}


class LogFile(logging.handlers.WatchedFileHandler):
    """A file to which lines are appended in batches; follows rotation; a full disk only loses lines.

    The standard library's handler notices that the file was moved. Lines are rendered already, so they reach it as
    bytes, not as records. Several processes append to one file. Each batch is a single `write` with
    O_APPEND, so lines never interleave.
    """

    def __init__(self, path: Path) -> None:
        self._lines: list[bytes] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(path, mode="ab")
        except OSError as error:
            raise SettingsError([f"cannot write the log file {path}: {error.strerror}"]) from error

    def add(self, lines: Sequence[bytes]) -> int:
        """Buffer lines, which `flush` writes; return how many wait to be written."""
        self._lines += lines
        return len(self._lines)

    def flush(self) -> None:
        """Write the buffered lines to the file that has the path now; on an error they are lost."""
        if not self._lines:
            return
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            self._append(b"".join(lines))
        except OSError as error:
            lost = f"kurir: {len(lines)} log lines lost: {self.baseFilename}: {error.strerror}\n"
            write_fd(2, lost.encode("utf-8", "replace"))
        finally:
            self.release()

    def _append(self, data: bytes) -> None:
        self.reopenIfNeeded()
        # None after it could not be opened again; the handler's type is that of text
        stream: Any = self.stream
        if stream is None:
            self.stream = stream = self._open()
        stream.write(data)

    def _open(self) -> Any:
        """Open the file unbuffered, for its owner and group alone; the handler calls this."""
        return open(self.baseFilename, "ab", buffering=0, opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o640)


class Console:
    """Readable lines on stderr, coloured on a terminal; shows at most `limit` lines per second."""

    def __init__(self, threshold: int, limit: int = _CONSOLE_LINES_PER_S) -> None:
        self._limit = limit
        self._threshold = threshold
        self._colours = os.isatty(2)
        self._second = 0
        self._shown = 0
        self._held = 0

    def show(self, level: str, weight: int, service: str, event: EventDict) -> None:
        """Show a line, unless it is below the console's level or above its rate; warnings are always shown."""
        if weight < self._threshold:
            return
        second = int(time.monotonic())
        if second != self._second:
            self._begin_second(second)
        self._shown += 1
        if self._shown > self._limit and weight < URGENT:
            self._held += 1
            return
        write_fd(2, self._format(level, service, event).encode("utf-8", "replace"))

    def _begin_second(self, second: int) -> None:
        if self._held:
            write_fd(2, f"… {self._held} more lines like these are not shown\n".encode())
        self._second, self._shown, self._held = second, 0, 0

    def _format(self, level: str, service: str, event: EventDict) -> str:
        at = datetime.now().astimezone().strftime("%H:%M:%S")
        pairs = " ".join(f"{key}={value}" for key, value in event.items() if key not in {"event", "exception"})
        exception = f"\n{event['exception'].rstrip()}" if "exception" in event else ""
        if not self._colours:
            return f"{at} {level:<7} {service:<15} {event.get('event', '')} {pairs}".rstrip() + exception + "\n"
        head = f"\x1b[2m{at}\x1b[0m {_COLOURS[level]}{level:<7}\x1b[0m \x1b[36m{service:<15}\x1b[0m"
        return f"{head} {event.get('event', '')} \x1b[2m{pairs}\x1b[0m{exception}\n"


class Shipper:
    """Ships warnings and errors as system events: a burst of 20, then one per second with the count of skipped ones."""

    def __init__(self, service: str, ship: Callable[[SystemEvent], None]) -> None:
        self._service = service
        self._ship = ship
        self._tokens = _SHIP_BURST
        self._refilled_at = time.monotonic()
        self._held = 0
        self._shipping = threading.local()

    def offer(self, now: float, level: str, event: EventDict) -> None:
        """Ship an event if the rate allows it; events that `ship` itself logs are not shipped."""
        if getattr(self._shipping, "busy", False):
            return
        if not self._take_token():
            self._held += 1
            return
        metadata = {valid(str(key)): _shipped(value) for key, value in event.items() if key != "event"}
        if self._held:
            metadata["held_back"] = self._held
            self._held = 0
        self._shipping.busy = True
        try:
            self._ship(
                SystemEvent(int(now * 1000), level, legible(str(event.get("event", ""))), self._service, metadata)
            )
        except Exception:  # a failing sink must not fail the caller, which only logs
            write_fd(2, traceback.format_exc().encode())
        finally:
            self._shipping.busy = False

    def _take_token(self) -> bool:
        now = time.monotonic()
        self._tokens = min(_SHIP_BURST, self._tokens + (now - self._refilled_at) * _SHIP_PER_S)
        self._refilled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def plain(value: Any) -> Any:
    """Return a value that JSON and msgpack can hold: itself, or its text."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() < 64):
        return value
    return valid(str(value))


def _shipped(value: Any) -> Any:
    found = plain(value)
    return legible(found, _SHIPPED_TEXT) if isinstance(found, str) else found


def write_fd(fd: int, data: bytes) -> None:
    """Write to a file descriptor; what a closed terminal or pipe cannot take is lost."""
    try:
        os.write(fd, data)
    except OSError:
        return  # the terminal or pipe is gone; the files still have the line
