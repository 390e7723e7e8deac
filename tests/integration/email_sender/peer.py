"""A scripted mail server on a real socket, for behaviour that no ordinary server shows on demand.

A script gives, per command (`CONNECT`, `EHLO`, `MAIL`, `RCPT`, `DATA`, `.`, `RSET`, `AUTH`, `STARTTLS` …), the replies
to its first, second … occurrence over all connections, or a function of the command's line; after its end, the
server accepts. A reply is a line to send, or CLOSE or SILENCE; after a line that ends with CLOSE, the server
closes the connection. `foreign` makes lines in other charsets.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CLOSE = "<close>"
SILENCE = "<silence>"
USUAL = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
_LIMIT = 16 * 1024 * 1024
_FRIENDLY = {
    "CONNECT": "220 peer.example.com ESMTP",
    "DATA": "354 go ahead",
    "QUIT": "221 2.0.0 bye",
    "STARTTLS": "220 2.0.0 ready",
    "AUTH": "235 2.7.0 welcome",
}


def foreign(line: str, charset: str) -> str:
    """Return a reply to be sent in this charset; surrogates carry the bytes that are not UTF-8."""
    return line.encode(charset).decode("utf-8", "surrogateescape")


Answers = Sequence[str] | Callable[[str], str]


@dataclass
class Session:
    """The input of one connection: its commands, and the messages that it handed over (dots still stuffed).

    `announced` counts the messages whose end arrived with the commands of the next.
    """

    commands: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    together: int = 0
    announced: int = 0

    @property
    def verbs(self) -> list[str]:
        """The commands without their arguments."""
        return [line.split(" ")[0] for line in self.commands]


class Peer:
    """A running server; `delays` gives the seconds before its replies, by command.

    `together` of a session is the largest number of commands that arrived in one write.
    """

    def __init__(
        self,
        script: Mapping[str, Answers] | None = None,
        extensions: Sequence[str] = USUAL,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._script: dict[str, list[str] | Callable[[str], str]] = {
            verb: answers if callable(answers) else list(answers) for verb, answers in (script or {}).items()
        }
        self.extensions = extensions
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sessions: list[Session] = []
        self.port = 0
        self.delays: dict[str, float] = {}

    @property
    def url(self) -> str:
        """The URL for a sender's settings."""
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        return len(self._writers)

    @property
    def messages(self) -> list[bytes]:
        """All messages that were handed over."""
        return [message for session in self.sessions for message in session.messages]

    @property
    def heard(self) -> Counter[str]:
        """How often each command was received."""
        return Counter(verb for session in self.sessions for verb in session.verbs)

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and cut the open ones."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await self._server.wait_closed()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def restart(self) -> None:
        """Cut the open connections, then take new ones."""
        await self.stop()
        await self.start()

    async def say_to_all(self, line: str, *, close: bool = True) -> None:
        """Send an unsolicited line on every connection."""
        for writer in list(self._writers):
            writer.write(f"{line}\r\n".encode())
            await writer.drain()
            if close:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session()
        self.sessions.append(session)
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if await self._answer(writer, "CONNECT"):
                await self._converse(session, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client hung up
        finally:
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _converse(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line = (await reader.readuntil(b"\r\n")).rstrip().decode()
            session.commands.append(line)
            # StreamReader's buffer holds what arrived with this command
            waiting = bytes(reader._buffer)  # type: ignore[attr-defined]
            session.together = max(session.together, 1 + waiting.count(b"\r\n"))
            verb = line.split(" ")[0].split(":")[0].upper()
            answered = await self._answer(writer, verb, line)
            if verb == "QUIT" or answered == CLOSE or not answered:
                return
            if verb == "DATA" and answered.startswith("354"):
                message = b"\r\n" + await self._message(reader)
                session.messages.append(message[2:-3])
                session.announced += bytes(reader._buffer).startswith(b"MAIL")  # type: ignore[attr-defined]
                if not await self._answer(writer, "."):
                    return
            if verb == "STARTTLS" and answered.startswith("220") and self._tls is not None:
                await writer.start_tls(self._tls)

    async def _message(self, reader: asyncio.StreamReader) -> bytes:
        first = await reader.readuntil(b"\r\n")
        return first if first == b".\r\n" else first + await reader.readuntil(b"\r\n.\r\n")

    async def _answer(self, writer: asyncio.StreamWriter, verb: str, line: str = "") -> str:
        """Answer a command; return the reply, or "" to close the connection."""
        if verb in self.delays:
            await asyncio.sleep(self.delays[verb])
        planned = self._script.get(verb)
        if isinstance(planned, list):
            answer = planned.pop(0) if planned else self._friendly(verb)
        else:
            answer = planned(line) if planned else self._friendly(verb)
        if answer == SILENCE:
            await asyncio.get_running_loop().create_future()
        text, closes, _ = answer.partition(CLOSE)
        if text:
            writer.write(text.encode("utf-8", "surrogateescape") + b"\r\n")
            await writer.drain()
        return "" if closes else text

    def _friendly(self, verb: str) -> str:
        if verb == "EHLO":
            lines = ["peer.example.com", *self.extensions]
            return "\r\n".join(f"250{'-' if line is not lines[-1] else ' '}{line}" for line in lines)
        return _FRIENDLY.get(verb, "250 2.0.0 ok")


@asynccontextmanager
async def peer(
    script: Mapping[str, Answers] | None = None,
    extensions: Sequence[str] = USUAL,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Peer]:
    """Run a server while the block runs."""
    server = Peer(script, extensions, tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
