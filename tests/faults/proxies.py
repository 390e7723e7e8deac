"""Proxies between a service and Redis, and between a sender and its mail server, that break the traffic.

They run in the test's event loop and forward bytes as they arrive. A break is armed for a time or for a number of
times; breaks are counted, so that a test can verify that its fault happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import hiredis

from shared.queue.scripts import load_script

_CHUNK = 65536
_MORE = object()
# bytes that arrived while the loop stood still are read within this time afterwards
_SOON_S = 0.2
# follows a DATA that was pipelined and refused; no message begins with such a line
_COMMANDS = (b"RSET\r\n", b"MAIL FROM:", b"QUIT\r\n")
_ENVELOPE = re.compile(rb"(?:^|\n)(?:RCPT TO:\s*<([^>]*)>|MAIL FROM:|RSET)", re.IGNORECASE)


class Pair:
    """A client's connection and the matching one to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.answers_held = False
        self.in_data = False
        self.tail = b""
        self.recipients: list[str] = []
        self.unanswered: list[str] = []
        self.handed_over_at = 0.0
        self.losing = 0
        self.held = False
        self.calls = hiredis.Reader(notEnoughData=_MORE)
        self.answers = hiredis.Reader(notEnoughData=_MORE)
        self.asked = 0
        self.answered = 0

    def cut(self) -> None:
        """Reset both halves."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Forwards bytes between clients and one server on loopback; subclasses inspect them."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.open = asyncio.Event()
        self.open.set()
        self.refusing = False
        self.pairs: set[Pair] = set()
        self.broken: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
        assert self._server is not None
        self._server.close()
        self.heal()
        self.cut_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def silence(self) -> None:
        """Keep every connection open and forward nothing."""
        self.broken["silence"] += 1
        self.open.clear()

    def heal(self) -> None:
        """Forward everything again, including what was withheld."""
        self.refusing = False
        self.open.set()

    def cut_all(self) -> None:
        """Reset every connection; serve new ones."""
        self.broken["reset"] += len(self.pairs)
        for pair in list(self.pairs):
            pair.cut()

    def refuse(self) -> None:
        """Reset every connection, and new ones immediately."""
        self.refusing = True
        self.cut_all()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = Pair(writer, server_writer)
        self.pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                for pump in (self._to_server(pair, reader), self._to_client(pair, server_reader)):
                    group.create_task(self._until_closed(pair, pump))
        finally:
            self.pairs.discard(pair)
            self.ended(pair)
            pair.cut()

    def ended(self, pair: Pair) -> None:
        """Note the end of a connection."""

    async def _until_closed(self, pair: Pair, pump: Coroutine[Any, Any, None]) -> None:
        """Run one direction; its end ends both."""
        with contextlib.suppress(OSError):
            await pump
        pair.cut()

    async def _to_server(self, pair: Pair, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            await self.open.wait()
            passed = await self.from_client(pair, data)
            if passed:
                pair.server.write(passed)
                await pair.server.drain()

    async def _to_client(self, pair: Pair, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            await self.open.wait()
            passed = await self.from_server(pair, data)
            if passed:
                pair.client.write(passed)
                await pair.client.drain()

    async def from_client(self, _pair: Pair, data: bytes) -> bytes:
        """Return the client's bytes to forward."""
        return data

    async def from_server(self, _pair: Pair, data: bytes) -> bytes:
        """Return the server's bytes to forward."""
        return data


class RedisProxy(Proxy):
    """Between a service and Redis: can lose the reply to a script that ran, or prevent a script from running."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self._lose: Counter[bytes] = Counter()
        self._names: dict[bytes, str] = {}
        self._hold: dict[bytes, int] = {}

    def lose_reply(self, script: str, times: int = 1) -> None:
        """Let the script run, then reset the connection instead of its reply; `times` times."""
        self._lose[self._digest(script)] += times

    def hold(self, script: str, after: int = 0) -> None:
        """Withhold calls of the script from the server after the first `after`; their connections fall silent."""
        self._hold[self._digest(script)] = after

    def release(self, script: str) -> None:
        """Withhold no further calls; those withheld are lost with their connections."""
        self._hold.pop(self._digest(script), None)

    def _digest(self, script: str) -> bytes:
        digest = load_script(script).digest.encode()
        self._names[digest] = script
        return digest

    async def from_client(self, pair: Pair, data: bytes) -> bytes:
        """Pass on whole calls, up to one that is armed to be withheld: a connection carries several at a time."""
        pair.calls.feed(data)
        passed: list[bytes] = []
        while not pair.held and (call := pair.calls.gets()) is not _MORE:
            digest = call[1] if len(call) > 1 else b""
            if self._holds(digest):
                pair.held = True
                break
            pair.asked += 1
            if self._lose[digest] > 0:
                self._lose[digest] -= 1
                self.broken[f"lost reply of {self._names[digest]}"] += 1
                pair.losing = pair.losing or pair.asked
            passed.append(hiredis.pack_command(tuple(call)))
        return b"".join(passed)

    def _holds(self, digest: bytes) -> bool:
        """Return whether a call is to be withheld; count those that pass before."""
        passing = self._hold.get(digest)
        if passing is None:
            return False
        if passing > 0:
            self._hold[digest] -= 1
            return False
        self.broken[f"held {self._names[digest]}"] += 1
        return True

    async def from_server(self, pair: Pair, data: bytes) -> bytes:
        """Lose the answer to an armed call, with those that arrive beside it."""
        pair.answers.feed(data)
        while pair.answers.gets() is not _MORE:
            pair.answered += 1
        if pair.losing and pair.answered >= pair.losing:
            pair.cut()
            return b""
        return data


class MailProxy(Proxy):
    """Between a sender and its mail server: drops connections at DATA, hangs in it or after it, adds jitter.

    `lost_answers` counts by recipient how often a message was handed over and its answer did not reach the sender: it
    was withheld or cut off here, or not given within the sender's time-out, `patience_s`. A sender waits from its
    write, which a stalled proxy sees late: `stalls` has pairs (end on the wall clock, duration), in seconds.
    """

    def __init__(self, target_port: int, patience_s: float = float("inf")) -> None:
        super().__init__(target_port)
        self._patience_s = patience_s
        self.stalls: list[tuple[float, float]] = []
        self.hang_in_data = False
        self.drop_at_data = False
        self.hang_after_data = 0
        self.jitter_s = 0.0
        self.lost_answers: Counter[str] = Counter()
        self.answering = asyncio.Event()
        self.answering.set()
        self.on_recipient: Callable[[str], Awaitable[None]] | None = None

    def heal(self) -> None:
        """Stop breaking; connections that hang are reset."""
        super().heal()
        self.answering.set()
        self.hang_in_data, self.hang_after_data, self.jitter_s = False, 0, 0.0
        self.drop_at_data = False
        for pair in list(self.pairs):
            if pair.answers_held:
                pair.cut()

    async def from_client(self, pair: Pair, data: bytes) -> bytes:
        """Follow the dialogue: the recipients, and whether a message's content is being sent."""
        if pair.answers_held:
            return b""
        if pair.in_data and not data.startswith(_COMMANDS):
            return await self._content(pair, data)
        if self.jitter_s:
            await asyncio.sleep(random.uniform(0, self.jitter_s))
        if self.drop_at_data and b"DATA\r\n" in data.upper():
            self.broken["dropped at DATA"] += 1
            pair.cut()
            return b""
        await self._note_recipients(pair, data)
        pair.in_data = (pair.tail + data).upper().endswith(b"DATA\r\n")
        pair.tail = data[-8:]
        return data

    async def _content(self, pair: Pair, data: bytes) -> bytes:
        if self.hang_in_data:
            self.broken["hung in DATA"] += 1
            pair.answers_held = True
            return data[: len(data) // 2]
        seen = pair.tail + data
        pair.tail = data[-8:]
        if b"\r\n.\r\n" in seen:
            self._end_of_data(pair)
            # the next message may be announced in the same write
            following = seen.rpartition(b"\r\n.\r\n")[2]
            await self._note_recipients(pair, following)
            pair.in_data = following.upper().endswith(b"DATA\r\n")
        return data

    def keep_answers(self) -> None:
        """Forward every message to the server and withhold the answer; `heal` forwards it."""
        self.broken["answers kept"] += 1
        self.answering.clear()

    def cut_all(self) -> None:
        """Reset every connection; messages handed over and not answered yet lose their answers."""
        for pair in self.pairs:
            self.lost_answers.update(pair.unanswered)
            pair.unanswered = []
        super().cut_all()

    def ended(self, pair: Pair) -> None:
        """Count a lost answer if the sender hung up after its whole time-out; sooner does not count."""
        if self._waited_s(pair) >= self._patience_s:
            self.lost_answers.update(pair.unanswered)
            pair.unanswered = []

    def _waited_s(self, pair: Pair) -> float:
        waited_s = time.monotonic() - pair.handed_over_at
        handed_over = time.time() - waited_s
        return waited_s + sum(for_s for until, for_s in self.stalls if until - for_s <= handed_over <= until + _SOON_S)

    async def from_server(self, pair: Pair, data: bytes) -> bytes:
        """Withhold answers that are to be lost or delayed."""
        if pair.unanswered:
            await self.answering.wait()
        if not pair.answers_held:
            pair.unanswered = []
        return b"" if pair.answers_held else data

    def _end_of_data(self, pair: Pair) -> None:
        pair.in_data = False
        pair.handed_over_at = time.monotonic()
        recipients, pair.recipients = pair.recipients, []
        if self.hang_after_data > 0:
            self.hang_after_data -= 1
            self.broken["hung after DATA"] += 1
            self.lost_answers.update(recipients)
            pair.answers_held = True
        else:
            pair.unanswered = recipients

    async def _note_recipients(self, pair: Pair, data: bytes) -> None:
        for match in _ENVELOPE.finditer(data):
            if match[1] is None:
                pair.recipients = []  # a message begins; one before it may have been refused
                continue
            address = match[1].decode("utf-8", "replace")
            pair.recipients.append(address)
            if self.on_recipient is not None:
                await self.on_recipient(address)
