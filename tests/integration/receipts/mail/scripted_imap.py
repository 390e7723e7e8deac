"""A mail server that speaks as much IMAP as the reader needs, and refuses or garbles what a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress


class ScriptedImap:
    """One folder of mails with the UIDs 1, 2, …; all is in memory and without TLS.

    `refused` has the commands that get NO, with or without their UID: `LOGIN`, `EXPUNGE`, `FETCH 2`. `nil` has the UIDs
    of mails that come as NIL. `noise` is sent before each answer.
    """

    def __init__(self, mails: Sequence[bytes], capabilities: str = "IMAP4rev1 UIDPLUS") -> None:
        self.mails = dict(enumerate(mails, 1))
        self.flags: dict[int, set[str]] = {uid: set() for uid in self.mails}
        self.capabilities = capabilities
        self.refused: set[str] = set()
        self.nil: set[int] = set()
        self.noise = ""
        self.said: list[str] = []
        self.clients = 0
        self.port = 0
        self._answers: dict[str, Callable[[Sequence[str]], bytes]] = {
            "CAPABILITY": self._offered,
            "SELECT": self._selected,
            "SEARCH": self._found,
            "FETCH": self._fetched,
            "STORE": self._stored,
            "EXPUNGE": self._expunged,
        }

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def url(self, options: str = "") -> str:
        """Return the URL of the folder."""
        return f"imap://user:password@127.0.0.1:{self.port}/INBOX{options}"

    def count(self, command: str) -> int:
        """Return how often a command was sent."""
        return sum(line.startswith(command) for line in self.said)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        try:
            writer.write(b"* OK ready\r\n")
            while line := (await reader.readline()).decode().strip():
                tag, _, command = line.partition(" ")
                self.said.append(command)
                writer.write(self.noise.encode() + self._answer(tag, command))
                await writer.drain()
        except ConnectionError:
            return
        finally:
            self.clients -= 1
            with suppress(ConnectionError):
                writer.close()

    def _answer(self, tag: str, command: str) -> bytes:
        words = command.removeprefix("UID ").split(" ")
        if self.refused & {words[0], " ".join(words[:2])}:
            return f"{tag} NO you may not do that\r\n".encode()
        answer = self._answers.get(words[0])
        untagged = answer(words[1:]) if answer is not None else b""
        return untagged + f"{tag} OK done\r\n".encode()

    def _offered(self, _words: Sequence[str]) -> bytes:
        return f"* CAPABILITY {self.capabilities}\r\n".encode()

    def _selected(self, _words: Sequence[str]) -> bytes:
        return f"* {len(self.mails)} EXISTS\r\n".encode()

    def _found(self, words: Sequence[str]) -> bytes:
        wanted = {word.removeprefix("UN").capitalize(): not word.startswith("UN") for word in words[1:]}
        uids = (
            str(uid)
            for uid, flags in self.flags.items()
            if all((f"\\{flag}" in flags) is has for flag, has in wanted.items())
        )
        return f"* SEARCH {' '.join(uids)}\r\n".encode()

    def _fetched(self, words: Sequence[str]) -> bytes:
        uid = int(words[0])
        body = self.mails[uid]
        if uid in self.nil:
            content = b"NIL"
        elif body:
            content = b"{%d}\r\n%b" % (len(body), body)
        else:
            content = b'""'
        return b"* %d FETCH (UID %d BODY[]<0> %b)\r\n" % (uid, uid, content)

    def _stored(self, words: Sequence[str]) -> bytes:
        self.flags[int(words[0])] |= set(" ".join(words[2:]).strip("()").split())
        return b""

    def _expunged(self, words: Sequence[str]) -> bytes:
        uid = int(words[0])
        del self.mails[uid], self.flags[uid]
        return b"* %d EXPUNGE\r\n" % uid
