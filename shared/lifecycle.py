"""Lifecycle: the start and end of a service's process.

Each service's `main.py` passes its coroutine to `run_service`, which owns the event loop, the signals and the exit
code: 0 after a clean stop, 2 for settings that cannot work, 1 for anything unexpected.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, NoReturn

from shared.errors import SettingsError
from shared.logs import configure_plain_logging, flush_logs, get_logger

try:
    import uvloop
except ImportError:  # no build for this platform
    _new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    _new_event_loop = uvloop.new_event_loop

EXIT_FAILED = 1
EXIT_SETTINGS = 2


class Stop:
    """The request to stop, set by SIGTERM or SIGINT; belongs to one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def is_set(self) -> bool:
        """Return whether the service has been asked to stop."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask the service to stop."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until the service is asked to stop."""
        await self._event.wait()


async def end_tasks(tasks: Sequence[asyncio.Task[Any]], every_s: float = 0.1) -> None:
    """Cancel tasks until all have ended; their results are not checked.

    One cancellation is not enough: before Python 3.12 `asyncio.wait_for`, which the Redis client uses, swallows a
    cancellation that arrives together with its result (CPython gh-86296), and the task would never end.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=every_s)


async def drain_on_wake(
    drain: Callable[[], Awaitable[bool]],
    wake: asyncio.Event,
    stop: Stop,
    retry_s: float,
    again_s: float | None = None,
) -> None:
    """Call `drain` until stopped: at the start, whenever `wake` is set, and `retry_s` after it returned False.

    It is also called `again_s` after it returned True, if that is given.

    An error that `drain` raises is logged and counts as False, since one entry must not end the service.
    """
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            wake.clear()
            waiting = asyncio.create_task(wake.wait())
            done = await _try_drain(drain)
            timeout_s = again_s if done else retry_s
            await asyncio.wait({waiting, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
    finally:
        stopping.cancel()


async def _try_drain(drain: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await drain()
    except Exception:
        get_logger().exception("draining an outbox failed; trying again")  # the traceback names it
        return False


class TaskGroup(asyncio.TaskGroup):
    """As `asyncio.TaskGroup`, which cancels its tasks once after a failure: this one does until all have ended."""

    def __init__(self) -> None:
        super().__init__()
        self._running: set[asyncio.Task[Any]] = set()

    def create_task(self, *args: Any, **options: Any) -> asyncio.Task[Any]:
        """Start a task, as `asyncio.TaskGroup` does."""
        task = super().create_task(*args, **options)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all tasks; raises what they raised in an exception group."""
        try:
            while error is None and self._running:
                await asyncio.wait(self._running)
        except asyncio.CancelledError as cancelled:  # a task failed, or the caller was cancelled
            kind, error, traceback = type(cancelled), cancelled, cancelled.__traceback__
        if error is not None:
            await end_tasks(list(self._running))
        await super().__aexit__(kind, error, traceback)


def is_stopping() -> bool:
    """Return whether the calling task was cancelled; otherwise a CancelledError comes from inside a library."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def run_service(name: str, main: Callable[[Stop], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run a service until it ends, then exit the process with its exit code.

    A SettingsError prints each problem to stderr and exits with 2. Any other error is logged with its traceback and
    exits with 1.
    """
    sys.exit(_exit_code(name, main))


def _exit_code(name: str, main: Callable[[Stop], Coroutine[Any, Any, None]]) -> int:
    log = get_logger()
    close_to_others()
    _calm_collector()
    configure_plain_logging()
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(_until_stopped(main))
    except BaseException as raised:  # the top of the process: every error becomes an exit code
        problems = _settings_problems(raised)
        if problems is None:
            log.exception("service failed", process=name)
            return EXIT_FAILED
        for problem in problems:
            sys.stderr.write(f"kurir {name}: {problem}\n")
        return EXIT_SETTINGS
    finally:
        flush_logs()
    return 0


def close_to_others() -> None:
    """Deny other users access to files that this process and its children create: they hold addresses and messages."""
    os.umask(0o027)


def _calm_collector() -> None:
    """Exclude imported objects from garbage collection, and make collections rarer.

    A full collection that includes a service's modules takes tens of milliseconds, and delays messages for that long.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _until_stopped(main: Callable[[Stop], Coroutine[Any, Any, None]]) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(stop)


def _settings_problems(raised: BaseException) -> list[str] | None:
    """Return the problems of a SettingsError, also of one wrapped by a TaskGroup; None for any other error."""
    if isinstance(raised, SettingsError):
        return raised.problems
    if isinstance(raised, BaseExceptionGroup):
        nested = [_settings_problems(inner) for inner in raised.exceptions]
        if all(problems is not None for problems in nested):
            return [problem for problems in nested for problem in problems or []]
    return None
