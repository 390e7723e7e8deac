"""The server side of SMTP (RFC 5321, with PIPELINING, 8BITMIME, SMTPUTF8, SIZE, ENHANCEDSTATUSCODES): small and strict.

A session is one protocol object. Commands that arrive in one piece are answered in one piece. Only <CR><LF>.<CR><LF>
ends a message. The `Reception` decides about messages: the sandbox's, or the listener for bounce mail.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

IDLE_S = 300.0
# how long a client that is being disconnected may take to read what it was answered
_FAREWELL_S = 10.0
_MAX_LINE_BYTES = 4096
_MAX_AHEAD_BYTES = 64 * 1024
_TOO_BIG = "552 5.3.4 message too big"
_PATH = re.compile(r'(?i)(FROM|TO):[ \t]*<((?:"(?:[^"\\]|\\.)*"|[^<>"])*)>(?:[ \t]+(.*))?')


@dataclass(slots=True)
class Envelope:
    """The sender and recipients from MAIL FROM and RCPT TO."""

    sender: str
    utf8: bool = False
    recipients: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a message: the `reply` ("" for the usual acceptance), and `delay_s` to wait before it.

    `answered` is False if the reply is not here: the connection is then closed (`closed`), or waits for `answer`.
    """

    reply: str = ""
    delay_s: float = 0.0
    accepted: bool = True
    answered: bool = True
    closed: bool = False


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a server takes; `host` is its name in greetings.

    A session ends after `errors` commands that are unknown or out of order, after `idle_s` without a byte, and after
    `longest_s` in all; 0 errors or seconds in all means never.
    """

    host: str
    message_bytes: int
    recipients: int
    errors: int = 0
    idle_s: float = IDLE_S
    longest_s: float = 0.0


class Reception(Protocol):
    """Decides about the mail of all sessions."""

    def joined(self, session: SmtpSession) -> str:
        """Register a new session and return the greeting; any other than 220 ends the session."""
        ...

    def left(self, session: SmtpSession) -> None:
        """Unregister a session that has ended."""
        ...

    def refusal(self, command: str, address: str) -> str:
        """Return the refusal of an address at `mail` or `rcpt`, "" if it is not refused."""
        ...

    def overloaded(self) -> bool:
        """Return whether the sessions hold so much unfinished mail that this one must be refused."""
        ...

    def receive(self, session: SmtpSession, envelope: Envelope, raw: bytes) -> Verdict:
        """Decide about a whole mail; the session of one that is not answered waits for `SmtpSession.answer`."""
        ...


class SmtpSession(asyncio.Protocol):
    """The connection of one client."""

    def __init__(self, reception: Reception, limits: SessionLimits) -> None:
        self._reception = reception
        self._limits = limits
        self._idle_s = limits.idle_s
        self._errors = 0
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._scanned = 0
        self._replies: list[str] = []
        self._envelope: Envelope | None = None
        self._greeted = ""
        self._greeted_as = ""
        self._in_data = False
        self._refused = ""
        self._held = False
        self._ended = False
        self._is_stuck = False
        self._timer: asyncio.TimerHandle | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._active_at = self._opened_at = 0.0
        self._commands: dict[str, Callable[[str], None]] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": self._noop,
            "QUIT": self._quit,
            "VRFY": self._vrfy,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client."""
        self._transport = cast("asyncio.Transport", transport)
        self._active_at = self._opened_at = self._loop.time()
        greeting = self._reception.joined(self)
        self._replies.append(greeting)
        self._ended = not greeting.startswith("220")
        self._idle_timer = self._loop.call_later(self._idle_s, self._check_idle)
        self._flush()

    def connection_lost(self, _error: Exception | None) -> None:
        """Clean up after the client has gone."""
        self._ended = True
        self._idle_timer.cancel()
        for timer in (self._timer, self._farewell):
            if timer is not None:
                timer.cancel()
        self._reception.left(self)

    def pause_writing(self) -> None:
        """Take nothing more from a client that does not read its answers, so that they do not pile up."""
        self._is_stuck = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Continue with a client that has read its answers."""
        self._is_stuck = False
        if not self._ended:
            self._transport.resume_reading()
            self._work()

    def data_received(self, data: bytes) -> None:
        """Buffer received bytes and answer complete commands."""
        self._active_at = self._loop.time()
        self._buffer += data
        if self._held or self._is_stuck:
            if len(self._buffer) > _MAX_AHEAD_BYTES:
                self._transport.pause_reading()
            return
        self._work()

    @property
    def buffered(self) -> int:
        """The bytes that have arrived and are not dealt with."""
        return len(self._buffer)

    @property
    def client(self) -> str:
        """The client's IP address, as it is known, and the name that it gave."""
        peer = self._transport.get_extra_info("peername")
        return f"{self._greeted_as} [{peer[0] if peer else 'unknown'}]"

    def abort(self) -> None:
        """Abort the connection."""
        self._ended = True
        self._transport.abort()

    def _work(self) -> None:
        while not (self._held or self._ended or self._is_stuck):
            if not (self._take_message() if self._in_data else self._take_line()):
                break
        self._flush()

    def _flush(self) -> None:
        if self._replies and not self._transport.is_closing():
            self._transport.write("".join(f"{reply}\r\n" for reply in self._replies).encode("utf-8", "surrogateescape"))
        self._replies.clear()
        if self._ended and self._farewell is None:
            self._transport.close()
            # a client that does not read the rest would keep its place forever
            self._farewell = self._loop.call_later(_FAREWELL_S, self._transport.abort)

    def _check_idle(self) -> None:
        now = self._loop.time()
        idle_s, longest_s = now - self._active_at, self._limits.longest_s
        is_too_long = bool(longest_s) and now - self._opened_at > longest_s
        if self._held or (idle_s < self._idle_s and not is_too_long):
            again_s = self._idle_s if self._held else self._idle_s - idle_s
            self._idle_timer = self._loop.call_later(again_s, self._check_idle)
            return
        self._end("421 4.4.2 idle for too long" if not is_too_long else "421 4.4.2 connected for too long")
        self._flush()

    def _end(self, reply: str) -> None:
        self._replies.append(reply)
        self._ended = True

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\n")
        if end > _MAX_LINE_BYTES or (end < 0 and len(self._buffer) > _MAX_LINE_BYTES):
            self._end("500 5.5.2 line too long")
            return False
        if end < 0:
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            self._obey(line.decode().rstrip("\r"))
        except UnicodeDecodeError:
            self._replies.append("500 5.5.2 neither ASCII nor UTF-8")
        return True

    def _obey(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        command = self._commands.get(verb.upper())
        if command is None:
            self._replies.append("500 5.5.2 command not recognised")
        else:
            command(rest.strip())
        if self._replies and self._replies[-1].startswith(("500", "501", "503")):
            self._errors += 1
            if self._errors == self._limits.errors:
                self._end("421 4.7.0 too many errors")

    def _ehlo(self, name: str) -> None:
        if not name:
            self._replies.append("501 5.5.4 EHLO needs a name")
            return
        self._greeted, self._greeted_as, self._envelope = "EHLO", name, None
        self._replies.extend(
            (
                f"250-{self._limits.host} greets you",
                "250-PIPELINING",
                f"250-SIZE {self._limits.message_bytes}",
                "250-8BITMIME",
                "250-ENHANCEDSTATUSCODES",
                "250 SMTPUTF8",
            )
        )

    def _helo(self, name: str) -> None:
        if not name:
            self._replies.append("501 5.5.4 HELO needs a name")
            return
        self._greeted, self._greeted_as, self._envelope = "HELO", name, None
        self._replies.append(f"250 {self._limits.host} greets you")

    def _mail(self, rest: str) -> None:
        path = _PATH.fullmatch(rest)
        if not self._greeted:
            self._replies.append("503 5.5.1 EHLO first")
        elif self._envelope is not None:
            self._replies.append("503 5.5.1 one MAIL at a time")
        elif path is None or path[1].upper() != "FROM":
            self._replies.append("501 5.5.4 MAIL FROM:<address>")
        else:
            self._begin(path[2], (path[3] or "").upper().split())

    def _begin(self, sender: str, parameters: list[str]) -> None:
        envelope = Envelope(sender, utf8="SMTPUTF8" in parameters)
        size = next((word[5:] for word in parameters if word.startswith("SIZE=")), "0")
        known = {"SMTPUTF8", "BODY=7BIT", "BODY=8BITMIME", f"SIZE={size}"}
        if set(parameters) - known or not size.isdecimal() or (parameters and self._greeted == "HELO"):
            self._replies.append("555 5.5.4 parameter not recognised")
        elif int(size[:20]) > self._limits.message_bytes:
            self._replies.append(_TOO_BIG)
        elif not (envelope.utf8 or sender.isascii()):
            self._replies.append("550 5.6.7 an address in UTF-8 needs SMTPUTF8")
        elif refusal := self._reception.refusal("mail", sender):
            self._refuse(refusal)
        else:
            self._envelope = envelope
            self._replies.append("250 2.1.0 sender ok")

    def _rcpt(self, rest: str) -> None:
        path, envelope = _PATH.fullmatch(rest), self._envelope
        if envelope is None:
            self._replies.append("503 5.5.1 MAIL first")
        elif path is None or path[1].upper() != "TO":
            self._replies.append("501 5.5.4 RCPT TO:<address>")
        elif path[3]:
            self._replies.append("555 5.5.4 parameter not recognised")
        elif not all(path[2].rpartition("@")):
            self._replies.append("501 5.1.3 not an address")
        elif not (envelope.utf8 or path[2].isascii()):
            self._replies.append("550 5.6.7 an address in UTF-8 needs SMTPUTF8")
        elif len(envelope.recipients) >= self._limits.recipients:
            self._replies.append("452 4.5.3 too many recipients")
        elif refusal := self._reception.refusal("rcpt", path[2]):
            self._refuse(refusal)
        else:
            envelope.recipients.append(path[2])
            self._replies.append("250 2.1.5 recipient ok")

    def _refuse(self, reply: str) -> None:
        self._replies.append(reply)
        self._ended = reply.startswith("421")

    def _data(self, rest: str) -> None:
        if rest:
            self._replies.append("501 5.5.4 DATA takes no parameter")
        elif self._envelope is None:
            self._replies.append("503 5.5.1 MAIL first")
        elif not self._envelope.recipients:
            self._replies.append("554 5.5.1 no valid recipients")
        else:
            self._in_data, self._refused, self._scanned = True, "", 0
            self._replies.append("354 end with <CR><LF>.<CR><LF>")

    def _take_message(self) -> bool:
        buffer = self._buffer
        if buffer.startswith(b".\r\n") and not self._refused:
            raw, rest = b"", 3
        else:
            # the end may begin in bytes that were already searched
            end = buffer.find(b"\r\n.\r\n", max(0, self._scanned - 4))
            if end < 0:
                self._scanned = len(buffer)
                self._bound(buffer)
                return False
            if end > self._limits.message_bytes:
                self._refused = self._refused or _TOO_BIG
            raw, rest = bytes(buffer[: end + 2]), end + 5
        del buffer[:rest]
        self._in_data = False
        self._finish(raw)
        return True

    def _bound(self, buffer: bytearray) -> None:
        """Forget an unfinished message that is too big, or any while the server is overloaded; its end is awaited."""
        if len(buffer) > self._limits.message_bytes:
            self._refused = _TOO_BIG
        elif len(buffer) > _MAX_AHEAD_BYTES and self._reception.overloaded():
            self._refused = self._refused or "452 4.3.1 too much mail at once"
        if self._refused:
            del buffer[:-4]
            self._scanned = 4

    def _finish(self, raw: bytes) -> None:
        envelope, self._envelope = self._envelope, None
        if envelope is None or self._refused:
            self._replies.append(self._refused or _TOO_BIG)
            return
        verdict = self._reception.receive(self, envelope, _unstuffed(raw))
        if verdict.closed:
            self.abort()
        elif not verdict.answered:
            self._held = True
        elif verdict.delay_s > 0:
            self._held = True
            self._timer = self._loop.call_later(verdict.delay_s, self.answer, verdict.reply)
        else:
            self._refuse(verdict.reply)

    def answer(self, reply: str) -> None:
        """Answer the message that waits for its reply, and go on with the session."""
        if self._ended:
            return
        self._held, self._timer = False, None
        self._active_at = self._loop.time()
        self._refuse(reply)
        if not self._is_stuck:
            self._transport.resume_reading()
        self._work()

    def _rset(self, _rest: str) -> None:
        self._envelope = None
        self._replies.append("250 2.0.0 ok")

    def _noop(self, _rest: str) -> None:
        self._replies.append("250 2.0.0 ok")

    def _vrfy(self, _rest: str) -> None:
        self._replies.append("252 2.5.0 send it and see")

    def _quit(self, _rest: str) -> None:
        self._end("221 2.0.0 bye")


def _unstuffed(raw: bytes) -> bytes:
    """Remove the leading dot of each line that begins with one (RFC 5321, 4.5.2)."""
    raw = raw.replace(b"\r\n.", b"\r\n")
    return raw[1:] if raw.startswith(b".") else raw
