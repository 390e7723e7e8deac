"""Structured logs: JSON lines in files, a readable console, and warnings shipped to the system log.

Every service appends to `combined.log`, and errors also to `error.log`; logrotate may move either at any time. A line
costs microseconds: orjson renders it, and lines are written in batches, but warnings and errors immediately. Callers
never log an address, a name, a phone number, a body or a secret. Warnings and errors, whose text may come from a
provider or a traceback, are masked in addition.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import orjson
import structlog
from structlog.typing import FilteringBoundLogger

from shared.clock import rfc3339
from shared.events import SystemEvent
from shared.foreign_text import valid
from shared.log_sinks import URGENT, Console, EventDict, LogFile, Shipper, plain, write_fd
from shared.masking import mask
from shared.settings import CommonSettings

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_LEVEL_OF_METHOD = {"exception": "error", "fatal": "critical", "warn": "warning"}
_FLUSH_EVERY_S = 0.1
_FLUSH_LINES = 256


def get_logger() -> FilteringBoundLogger:
    """Return a logger; it may be created at import, since it reads the configuration with its first line."""
    return cast("FilteringBoundLogger", structlog.get_logger())


def configure_plain_logging() -> None:
    """Write lines to stderr until `configure_logging` is called, with masked tracebacks as afterwards.

    structlog's default shows the values of local variables in tracebacks, and one may be a URL with a password.
    """
    _PROCESSORS[:] = [_write_plainly]
    structlog.configure(processors=_PROCESSORS, logger_factory=structlog.testing.ReturnLoggerFactory())


def _write_plainly(_logger: Any, method: str, event: EventDict) -> str:
    _expand_exception(event)
    _mask_values(event)
    pairs = " ".join(f"{key}={value}" for key, value in event.items() if key not in {"event", "exception"})
    write_fd(2, f"{method} {event.get('event', '')} {pairs}\n{event.get('exception', '')}".encode("utf-8", "replace"))
    return ""


def configure_logging(
    service: str, settings: CommonSettings, ship: Callable[[SystemEvent], None] | None = None
) -> None:
    """Send this process's logs to files and console, and warnings and errors also to `ship` (rate-limited).

    `ship` must not block and may be called from any thread. Raises SettingsError if the log folder is not writable.
    """
    before = LogPipeline.current
    pipeline = LogPipeline(service, settings, ship)
    if before is not None:
        before.close()
    LogPipeline.current = pipeline
    # changed in place, so that cached loggers use it too
    _PROCESSORS[:] = [structlog.contextvars.merge_contextvars, pipeline]
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.log_level]),
        logger_factory=structlog.testing.ReturnLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_StandardHandler(pipeline)], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)


def note(event: str, **fields: Any) -> None:
    """Log a line of level info from code that logs thousands per second: the same line, without structlog's overhead.

    The fields must be plain values; context bound with structlog's contextvars is left out.
    """
    if LogPipeline.current is None:
        get_logger().info(event, **fields)
    else:
        LogPipeline.current.note(event, fields)


def flush_logs() -> None:
    """Write the buffered lines."""
    if LogPipeline.current is not None:
        LogPipeline.current.flush()


class LogPipeline:
    """The last structlog processor: renders each line once and passes it to the sinks."""

    current: ClassVar[LogPipeline | None] = None

    def __init__(
        self, service: str, settings: CommonSettings, ship: Callable[[SystemEvent], None] | None = None
    ) -> None:
        self._service = service
        folder = settings.log_dir
        self._combined = LogFile(folder / "combined.log") if folder is not None else None
        self._errors = LogFile(folder / "error.log") if folder is not None else None
        self._production = settings.production
        self._notes = _LEVELS[settings.log_level] <= _LEVELS["info"]
        # the lines of level info that are not rendered yet: when, and the fields
        self._noted: list[tuple[float, EventDict]] = []
        shown_from = _LEVELS.get(settings.console, 100)
        self._console = Console(threshold=shown_from)
        self._shows_notes = shown_from <= _LEVELS["info"]
        self._shipper = Shipper(service, ship) if ship is not None else None
        self._timer_loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, _logger: Any, method: str, event: EventDict) -> str:
        """Write one event to the sinks; called by structlog."""
        level = _LEVEL_OF_METHOD.get(method, method)
        weight = _LEVELS.get(level, 20)
        _expand_exception(event)
        if weight >= URGENT:
            _mask_values(event)
        now = time.time()
        line = _render(now, level, self._service, event)
        waiting = 0
        self._write_notes()
        if self._combined is not None and self._errors is not None:
            waiting = self._combined.add([line])
            if weight >= 40:
                self._errors.add([line])
        if self._production:
            write_fd(1, line)
        else:
            self._console.show(level, weight, self._service, event)
        if weight >= URGENT:
            self.flush()
            if self._shipper is not None:
                self._shipper.offer(now, level, event)
        else:
            self._flush_soon(waiting)
        return ""

    def note(self, event: str, fields: EventDict) -> None:
        """Write one line of level info; adds the event to `fields` as the last one.

        It is rendered when it is written: many lines in a row take less time than each on its own.
        """
        if not self._notes:
            return
        fields["event"] = event
        noted = time.time(), fields
        # in one step: another thread that logs meanwhile replaces the list
        self._noted.append(noted)
        self._flush_soon(len(self._noted))

    def _write_notes(self) -> None:
        """Pass the lines of `note` to the sinks; called before any later line is passed to them."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        lines = self._note_lines(noted)
        if self._combined is not None:
            self._combined.add(lines)
        if self._production:
            for line in lines:
                write_fd(1, line)
        elif self._shows_notes:
            for _, fields in noted:
                self._console.show("info", _LEVELS["info"], self._service, fields)

    def _note_lines(self, noted: Sequence[tuple[float, EventDict]]) -> list[bytes]:
        """Return the lines that `_render` returns; those of one millisecond share their head."""
        lines: list[bytes] = []
        head, head_ms = b"", -1
        for now, fields in noted:
            ms = int(now * 1000)
            if ms != head_ms:
                head, head_ms = _head(ms, "info", self._service), ms
            try:
                written = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
            except TypeError:  # values that `_render` writes in another way
                lines.append(_render(now, "info", self._service, fields))
                continue
            if "at" in fields or "level" in fields or "service" in fields:  # they replace those of the head
                lines.append(_render(now, "info", self._service, fields))
            else:
                lines.append(head + written[1:])
        return lines

    def flush(self) -> None:
        """Write the buffered lines."""
        self._write_notes()
        for file in (self._combined, self._errors):
            if file is not None:
                file.flush()

    def close(self) -> None:
        """Flush and close the files; a line that comes later opens them again."""
        self._write_notes()
        for file in (self._combined, self._errors):
            if file is not None:
                file.close()

    def _flush_soon(self, waiting: int) -> None:
        """Flush the waiting lines within 100 ms, or immediately outside an event loop or if there are many."""
        if not waiting:
            return
        if waiting >= _FLUSH_LINES:
            self.flush()
            return
        # asked first: up to Python 3.11, `get_running_loop` makes a system call
        if self._timer_loop is not None and self._timer_loop.is_running():
            return
        try:
            self._timer_loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        self._timer_loop.call_later(_FLUSH_EVERY_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer_loop = None
        self.flush()


def _head(ms: int, level: str, service: str) -> bytes:
    """Return the beginning of a line, up to its own fields."""
    return orjson.dumps({"at": rfc3339(ms), "level": level, "service": service})[:-1] + b","


class _StandardHandler(logging.Handler):
    """Passes what libraries log through `logging` to the same sinks."""

    def __init__(self, pipeline: LogPipeline) -> None:
        super().__init__()
        self._pipeline = pipeline

    def emit(self, record: logging.LogRecord) -> None:
        event: EventDict = {"event": record.getMessage(), "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        self._pipeline(None, record.levelname.lower(), event)


_PROCESSORS: list[Any] = []
atexit.register(flush_logs)


def _expand_exception(event: EventDict) -> None:
    """Replace `exc_info` with the text of the traceback."""
    raised = event.pop("exc_info", None)
    if not raised:
        return
    if isinstance(raised, tuple):
        raised = raised[1]
    elif not isinstance(raised, BaseException):
        raised = sys.exc_info()[1]
    if raised is not None:
        event["exception"] = "".join(traceback.format_exception(raised))


def _mask_values(event: EventDict) -> None:
    for key, value in event.items():
        if isinstance(value, BaseException):
            event[key] = mask(f"{type(value).__name__}: {value}")
        elif isinstance(value, str) and not key.endswith("_id"):
            event[key] = mask(value)


def _render(now: float, level: str, service: str, event: EventDict) -> bytes:
    line = {"at": rfc3339(int(now * 1000)), "level": level, "service": service, **event}
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # text that is not valid Unicode, or a value without a JSON form
        simple = {valid(str(key)): plain(value) for key, value in line.items()}
        return orjson.dumps(simple, option=orjson.OPT_APPEND_NEWLINE)
