"""Processes that sign messages before their turns: urgent ones first, the others in order of arrival.

A signature with RSA takes longer than everything else that a sender does for a message, and threads that make them
contend with the event loop for the interpreter's lock. A process (`signatures`) gets a few digests at a time, so that
an urgent message waits for few others. One that ends is started again, and another signs what it had.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from services.email_sender.dkim_keys import DkimKey
from services.email_sender.signatures import REQUEST, pack_keys
from services.email_sender.signing import Draft
from shared.logs import get_logger

_MOST_PROCESSES = 4
# messages that a process has at once: more of them would delay urgent ones, with fewer it would wait for the next
_MOST_GIVEN, _FEWEST_GIVEN = 16, 12
_FIRST_RESTART_S, _LONGEST_RESTART_S = 0.1, 30.0
# a process that takes longer for a message whose turn has come stands still
STUCK_S = 5.0
_STOP_S = 1.0


class PendingMessage:
    """A message that is signed before its turn; `content` is what to send, None as long as it is not signed.

    It is `queued` from when a process may take it until one has. If it is `given_up`, no process signs it; it can still
    be signed at its turn.
    """

    __slots__ = ("_draft", "_waiter", "content", "given_up", "queued", "requests")

    def __init__(self) -> None:
        self._draft: Draft | None = None
        self.requests: Sequence[tuple[DkimKey, bytes]] = ()
        self.content: bytes | None = None
        self.queued = False
        self.given_up = False
        self._waiter: asyncio.Future[None] | None = None

    def queue(self, draft: Draft) -> None:
        """Note that everything but its signatures is prepared."""
        self._draft, self.requests, self.queued = draft, draft.requests, True

    def complete(self, signatures: Sequence[bytes]) -> None:
        """Take its signatures, one for each request."""
        if self._draft is not None:
            self.content, self._draft = self._draft.completed(signatures), None
            if self._waiter is not None:
                self._wake()

    def sign_now(self) -> bytes | None:
        """Sign it on this thread, in place of a process; return None if it is not prepared for that."""
        if self._draft is not None:
            self.content = self._draft.signed()
        self.give_up()
        return self.content

    def give_up(self) -> None:
        """Let no process sign it."""
        self.given_up, self.queued, self._draft = True, False, None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until it is signed or given up."""
        if self.content is None and not self.given_up:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


class Signers:
    """The processes, at most one per processor; each message is signed once.

    For messages with only Ed25519 keys there is one, which signs 40,000 in a second.
    """

    def __init__(self, keys: Sequence[DkimKey]) -> None:
        most = _MOST_PROCESSES if any(key.is_rsa for key in keys) else 1
        self._count = min(len(os.sched_getaffinity(0)), most) if keys else 0
        self._packed = pack_keys([key.private for key in keys])
        self._numbers = {key.tags: number for number, key in enumerate(keys)}
        self._processes: list[_Process] = []
        self._urgent: deque[PendingMessage] = deque()
        self._waiting: deque[PendingMessage] = deque()
        self._restart_s = _FIRST_RESTART_S
        self._restart: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._filling = False
        self._closed = False

    async def open(self) -> None:
        """Start the processes that are missing; they take requests at once, and answer as soon as they are ready."""
        while len(self._processes) < self._count and not self._closed:
            try:
                await self._start()
            except OSError as error:
                get_logger().warning("signing_process_not_started", reason=str(error))
                self._start_later()
                return

    async def _start(self) -> None:
        _, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Process(self._fill, self._lost),
            *(sys.executable, "-P", "-m", "services.email_sender.signatures"),
            stderr=None,
            start_new_session=True,  # the keyboard's interrupt is for the sender, which ends it
        )
        if self._closed:
            await process.end()
            return
        process.write(self._packed)
        self._processes.append(process)
        self._fill(process)

    def add(self, pending: PendingMessage, draft: Draft, *, urgent: bool = False) -> None:
        """Queue a message for signing, an urgent one first; without a process it is given up."""
        if pending.given_up or not self._processes:
            pending.give_up()
            return
        pending.queue(draft)
        (self._urgent if urgent else self._waiting).append(pending)
        if not self._filling:
            # what is added in one turn of the event loop is written together
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill_all)

    def hurry(self, pending: PendingMessage) -> None:
        """Sign a message whose turn has come next."""
        if pending.queued:
            self._urgent.append(pending)

    async def wait(self, pending: PendingMessage) -> bytes | None:
        """Wait for a message whose turn has come; return None if it must be signed otherwise."""
        self.hurry(pending)
        try:
            async with asyncio.timeout(STUCK_S):
                await pending.wait()
        except TimeoutError:
            pending.give_up()
            for process in self._processes:
                if pending in process.given:
                    get_logger().warning("signing_process_stuck", seconds=STUCK_S)
                    process.kill()
        return pending.content

    async def close(self) -> None:
        """Stop signing, drop the queue and end the processes."""
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
        processes, self._processes = self._processes, []
        self._give_up()
        for process in processes:
            for pending in process.given:
                pending.give_up()
        await asyncio.gather(*(process.end() for process in processes))
        if self._starting is not None:
            await self._starting

    def _fill_all(self) -> None:
        self._filling = False
        for process in sorted(self._processes, key=lambda one: len(one.given)):
            self._fill(process)

    def _fill(self, process: _Process) -> None:
        """Give a process further messages if it has few."""
        if len(process.given) > _FEWEST_GIVEN or not (self._urgent or self._waiting):
            return
        requests: list[bytes] = []
        while len(process.given) < _MOST_GIVEN and (self._urgent or self._waiting):
            pending = (self._urgent or self._waiting).popleft()
            if not pending.queued:
                continue  # a hurried one is in both queues, and a process has it already; others were given up
            pending.queued = False
            process.given.append(pending)
            for key, digest in pending.requests:
                requests.append(REQUEST.pack(self._numbers[key.tags], digest))
        process.write(b"".join(requests))

    def _lost(self, process: _Process, code: int | None) -> None:
        """Sign again what a process had that has ended, and start another soon."""
        if process not in self._processes:
            return
        self._processes.remove(process)
        get_logger().warning("signing_process_lost", exit_code=code, messages=len(process.given))
        if process.answered:
            self._restart_s = _FIRST_RESTART_S
        for pending in reversed(process.given):
            if not pending.given_up:
                pending.queued = True
                self._urgent.appendleft(pending)
        if self._processes:
            self._fill_all()
        else:
            self._give_up()
        self._start_later()

    def _give_up(self) -> None:
        for pending in (*self._urgent, *self._waiting):
            if pending.queued:
                pending.give_up()
        self._urgent.clear()
        self._waiting.clear()

    def _start_later(self) -> None:
        if self._closed or self._restart is not None:
            return
        self._restart = asyncio.get_running_loop().call_later(self._restart_s, self._start_again)
        self._restart_s = min(self._restart_s * 2, _LONGEST_RESTART_S)

    def _start_again(self) -> None:
        self._restart = None
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self.open())
        else:
            self._start_later()


class _Process(asyncio.SubprocessProtocol):
    """One process; `given` are the messages that it has, in the order of its answers."""

    def __init__(self, fill: Callable[[_Process], None], lost: Callable[[_Process, int | None], None]) -> None:
        self._fill = fill
        self._lost = lost
        self.given: deque[PendingMessage] = deque()
        self.answered = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pid = 0
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the process and its stdin."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))

    def write(self, data: bytes) -> None:
        """Write keys or requests."""
        if data and not self._stdin.is_closing():
            self._stdin.write(data)

    def pipe_data_received(self, _fd: int, data: bytes) -> None:
        """Hand signatures to their messages; give it further ones."""
        self.answered = True
        read = self._read + data
        at = 0
        while self.given:
            signatures = []
            end = at
            for key, _ in self.given[0].requests:
                signatures.append(read[end : end + key.signature_bytes])
                end += key.signature_bytes
            if end > len(read):
                break
            self.given.popleft().complete(signatures)
            at = end
        self._read = read[at:]
        self._fill(self)

    def process_exited(self) -> None:
        """Report the end of the process, and close what is left of its pipes."""
        self._lost(self, self._transport.get_returncode())
        self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """Note that nothing is left of the process."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def end(self) -> None:
        """End it by closing its stdin; kill it if it does not end soon."""
        self._stdin.close()
        await asyncio.wait({self._ended}, timeout=_STOP_S)
        if not self._ended.done():
            self._transport.kill()
            await self._ended

    def kill(self) -> None:
        """End it at once."""
        self._transport.kill()
