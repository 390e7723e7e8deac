"""The SMTP servers: each a pool of long-lived connections with its own limits and breaker, and the choice among them.

A message goes to one server. Another takes over only while the first has surely not been handed the message: it
cannot be reached, or was lost before the final dot. A reused connection that turns out to be closed is replaced
by a fresh one without further ado.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from aiosmtplib.response import SMTPResponse

from services.email_sender.connection import Connection
from services.email_sender.encoder import Encoder
from services.email_sender.envelope import Announced
from services.email_sender.failures import ClosedMeanwhileError, ConnectionLostError, RefusedError
from services.email_sender.login import Credentials
from services.email_sender.message import Mail
from services.email_sender.oauth import TokenSource
from services.email_sender.own_rate import OwnRate, RateReachedError
from services.email_sender.replies import Reply, Stage, alike
from services.email_sender.settings import ServerSettings, SmtpSettings
from services.email_sender.tls import TlsContexts
from shared.clock import SystemClock
from shared.errors import (
    PermanentError,
    Refusal,
    SendError,
    StopChannelError,
    UnavailableError,
    UncertainError,
)
from shared.logs import get_logger
from shared.sending.breaker import Breaker, Turn
from shared.sending.provider import Room, ServerState, Start, at_once, note_acceptance

LEAST_STALE_S = 5.0
_TEND_S = 1.0
_STALE_GROWTH = 1.01


NextMail = Callable[[], Mail | None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way: what is awaited before a word of it is said, and where the next comes from."""

    mail: Mail
    start: Start = at_once
    following: NextMail | None = None

    def accepted(self, response: SMTPResponse) -> None:
        """Note the server's yes."""
        note_acceptance(self.mail.message_id, f"{response.code} {response.message}")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A server's yes: who said it, and in what words."""

    server: str
    reply: Reply


class Server:
    """One SMTP server."""

    def __init__(self, settings: ServerSettings, smtp: SmtpSettings, encoder: Encoder, tls: ssl.SSLContext) -> None:
        self.settings = settings
        self._smtp = smtp
        self._encoder = encoder
        self._tls = tls
        tokens = TokenSource(settings.oauth, smtp.timeouts.command_s) if settings.oauth else None
        self._credentials = Credentials(settings, tokens)
        self._clock = asyncio.get_running_loop().time
        self.breaker = Breaker(SystemClock(), smtp.breaker)
        self.concurrency = settings.concurrency or smtp.concurrency
        self._slots = asyncio.Semaphore(self.concurrency)
        self.idle: deque[Connection] = deque()
        self._awaiting: dict[str, Connection] = {}
        # with fewer connections than senders, or starts spaced, the next message may have to wait for others
        self.chains = settings.rate is None and self.concurrency >= smtp.concurrency
        self.active = 0
        self._own_rate = OwnRate(settings.name, settings.rate, self._clock)
        # how many messages it has accepted
        self.taken = 0
        # what it refuses everybody by, while others are there to turn to
        self._set_aside = ""
        self.others_left: Callable[[], bool] = lambda: False
        # why it refused us at last, "" once it has taken a message
        self.refusal = ""
        # shorter once the server has shown that it closes them sooner
        self._stale_s = smtp.timeouts.idle_s
        self._leaving: set[asyncio.Future[None]] = set()

    def room(self) -> Room:
        """Say how many messages could start at once."""
        return self._own_rate.room(self.concurrency - self.active, ready=any(map(self._is_fresh, self.idle)))

    async def send(self, delivery: Delivery, turn: Turn) -> Accepted:
        """Hand over one message in the breaker's `turn`, once its start lets it; raises a SendError.

        Where `following` has the message that comes next, it is announced together with the end of this one.
        """
        with turn:
            async with self._slots:
                self.active += 1
                try:
                    with self._own_rate.passing(delivery.start) as start:
                        reply = await self._send(replace(delivery, start=start))
                except SendError as error:
                    self._judge(error, turn)
                    raise
                finally:
                    self.active -= 1
            turn.worked()
        self.taken += 1
        self._set_aside = ""
        self.refusal = ""
        return Accepted(self.settings.name, reply)

    async def _send(self, delivery: Delivery) -> Reply:
        connection = self._awaiting.pop(delivery.mail.job_id, None) or self._take_idle()
        reused = connection is not None
        used_at = connection.used_at if connection is not None else 0.0
        connection = connection or await self._connect()
        try:
            return await self._hand_over(connection, delivery)
        except (ConnectionLostError, RefusedError) as error:
            if not ((reused and _is_stale(error)) or isinstance(error, ClosedMeanwhileError)):
                raise _translated(error) from error
            if reused:
                self._stale_s = min(self._stale_s, max(self._clock() - used_at, LEAST_STALE_S))
        # the server had closed it between two messages: that says nothing about this one
        try:
            return await self._hand_over(await self._connect(), delivery)
        except RefusedError as error:
            raise error.classified() from error

    async def _hand_over(self, connection: Connection, delivery: Delivery) -> Reply:
        mail, following = delivery.mail, delivery.following
        if mail.envelope.utf8 and not connection.offers("smtputf8"):
            self._keep(connection)
            raise PermanentError("the server does not take international addresses (SMTPUTF8)", code="smtputf8")
        try:
            if connection.announced is not None:
                content = connection.announced.content
            else:
                await connection.clear()
                content = await self._encoder.encode(mail, eight_bit=connection.offers("8bitmime"))
            await delivery.start()
            if not connection.sound:
                raise ClosedMeanwhileError
            if following is None or not self.chains:
                return await connection.send(mail.envelope, content, delivery.accepted)
            return await connection.send(
                mail.envelope, content, delivery.accepted, lambda: self._announced(connection, following)
            )
        finally:
            self._keep(connection)

    def _announced(self, connection: Connection, following: NextMail) -> Announced | None:
        """Return a message ready to be announced, None where it has to wait for its turn.

        What is wrong with it is its own attempt's to find: the message under way must not suffer for it.
        """
        try:
            mail = following()
            if mail is None or (mail.envelope.utf8 and not connection.offers("smtputf8")):
                return None
            content = self._encoder.encode_at_once(mail, eight_bit=connection.offers("8bitmime"))
            return Announced(mail.job_id, mail.envelope, content) if content is not None else None
        except Exception:
            get_logger().exception("not_announced", server=self.settings.name)
            return None

    def withdraw(self, mail: Mail) -> None:
        """Forget a message that was announced: its connection goes, nothing of it was handed over."""
        connection = self._awaiting.pop(mail.job_id, None)
        if connection is not None:
            connection.abort()
            self._dismiss(connection)

    def _is_fresh(self, connection: Connection) -> bool:
        return connection.usable and self._clock() - connection.used_at < self._stale_s

    def _take_idle(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if self._is_fresh(connection):
                return connection
            self._dismiss(connection)
        return None

    def _keep(self, connection: Connection) -> None:
        if connection.awaited and connection.announced is not None:
            self._awaiting[connection.announced.job_id] = connection
        elif connection.usable:
            self.idle.append(connection)
        else:
            self._dismiss(connection)

    async def _connect(self) -> Connection:
        connection = Connection(self._credentials, self._smtp, self._tls)
        await connection.open()
        return connection

    async def look(self) -> Connection:
        """Connect and log in for real, outside the pool; raises a SendError."""
        return await self._connect()

    def _judge(self, error: SendError, turn: Turn) -> None:
        """Learn from a failure: about the server (its breaker), or about what it thinks of this sender."""
        if isinstance(error, RateReachedError):
            return
        if isinstance(error, ConnectionLostError):
            turn.judge(error)
            return
        if isinstance(error, UnavailableError | UncertainError):
            turn.failed(str(error))
            return
        if isinstance(error, StopChannelError):
            return  # what it means for this server depends on the others
        cause = error.__cause__
        if isinstance(error, PermanentError) and isinstance(cause, RefusedError):
            self._judge_refusal(error, cause, turn)
        else:
            self._answered(turn)

    def _answered(self, turn: Turn) -> None:
        """It spoke to us about a message: it lets us in, and what it had against us is over."""
        turn.worked()
        if not self._set_aside:
            self.refusal = ""

    def _judge_refusal(self, error: PermanentError, cause: RefusedError, turn: Turn) -> None:
        """It may refuse everybody alike; once that is known, its refusals are its failures."""
        if self._set_aside and self.others_left():
            turn.failed(self._set_aside)
            raise UnavailableError(self._set_aside, code=error.code, reply=error.reply) from error
        self._answered(turn)
        kind, most = alike(cause.reply, cause.recipient)
        name = self.settings.name
        error.refusal = Refusal(name, kind, most, lambda: self.taken, self.others_left, self.set_aside)

    def set_aside(self, reason: str) -> None:
        """Leave the server alone, but for a probe now and then, until it accepts a message."""
        self._set_aside = self.refusal = reason
        self.breaker.open(reason)

    def tend(self) -> None:
        """Close connections that were idle for too long."""
        now = self._clock()
        # what was learned from one connection may have had other reasons: it is forgotten within minutes
        self._stale_s = min(self._stale_s * _STALE_GROWTH, self._smtp.timeouts.idle_s)
        for connection in [one for one in self.idle if now - one.used_at >= self._stale_s]:
            self.idle.remove(connection)
            self._dismiss(connection)

    def _dismiss(self, connection: Connection) -> None:
        """Take leave of a connection in its own time."""
        leaving = asyncio.ensure_future(connection.close())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Let all connections go; bounded in time."""
        self.idle.extend(self._awaiting.values())
        self._awaiting.clear()
        while self.idle:
            self._dismiss(self.idle.pop())
        await asyncio.gather(*self._leaving)


class Servers:
    """All servers of the channel."""

    def __init__(self, smtp: SmtpSettings, encoder: Encoder) -> None:
        self._smtp = smtp
        contexts = TlsContexts(smtp.ca_file)
        self.servers: Sequence[Server] = [Server(one, smtp, encoder, contexts.of(one)) for one in smtp.servers]
        for server in self.servers:
            server.others_left = partial(self._others_left, server)

    def _others_left(self, server: Server) -> bool:
        """Whether another server works."""
        return any(not one.breaker.is_open for one in self.servers if one is not server)

    def available(self) -> bool:
        """Say whether any server may be tried now."""
        return any(one.breaker.admits(last_resort=self._is_last_resort(one)) for one in self.servers)

    def room(self) -> Room:
        """Say how many messages could start at once, at all servers that may be tried now."""
        rooms = [one.room() for one in self.servers if one.breaker.admits(last_resort=self._is_last_resort(one))]
        starts = sum(room.starts for room in rooms)
        in_s = 0.0 if starts else min((room.in_s for room in rooms if room.in_s), default=0.0)
        return Room(starts, in_s, any(room.ready for room in rooms))

    async def send(self, delivery: Delivery) -> Accepted:
        """Hand over one message to one of the servers; raises a SendError.

        A server that refuses us is left alone, and the others go on; StopChannelError once every server does. With one
        server alone the message that `following` gives is announced to it ahead of its turn.
        """
        if len(self.servers) > 1:
            delivery = replace(delivery, following=None)
        tried: list[Server] = []
        failure: SendError | None = None
        while (server := self._choose(tried)) is not None:
            tried.append(server)
            turn = server.breaker.enter(last_resort=self._is_last_resort(server))
            if turn is None:
                continue
            try:
                return await server.send(delivery, turn)
            except (UnavailableError, ConnectionLostError) as error:
                failure = error
            except StopChannelError as error:
                failure = self._refused_by(server, error)
        raise failure or UnavailableError("all servers are left alone for a while", code="breaker")

    def _refused_by(self, server: Server, error: StopChannelError) -> UnavailableError:
        """Leave a server alone that refuses us; raises StopChannelError where none is left.

        Then the channel's pause takes the place of the breakers: all servers are tried again once it is resumed.
        """
        server.refusal = f"{error.message}: {error.reply}" if error.reply else error.message
        server.breaker.refuses(server.refusal)
        get_logger().error("server_refuses_us", server=server.settings.name, code=error.code, reason=server.refusal)
        if not all(one.breaker.refused for one in self.servers):
            return UnavailableError(f"{server.settings.name} refuses us: {server.refusal}", code=error.code)
        for one in self.servers:
            one.breaker.close()
        if len(self.servers) == 1:
            raise error
        words = "; ".join(f"{one.settings.name}: {one.refusal}" for one in self.servers)
        raise StopChannelError("every server refuses us", code=error.code, reply=words) from error

    def states(self) -> list[ServerState]:
        """Return the state of each server."""
        return [
            ServerState(one.settings.name, available=not one.breaker.is_open, refuses=bool(one.refusal))
            for one in self.servers
        ]

    def withdraw(self, mail: Mail) -> None:
        """Forget a message that was announced ahead of its turn and is not sent now."""
        for server in self.servers:
            server.withdraw(mail)

    def _choose(self, tried: Sequence[Server]) -> Server | None:
        """Pick a server by weight, one that is free if there is any."""
        candidates = [
            one
            for one in self.servers
            if one not in tried and one.breaker.admits(last_resort=self._is_last_resort(one))
        ]
        if len(candidates) <= 1:
            return candidates[0] if candidates else None
        candidates = [one for one in candidates if one.room().starts > 0] or candidates
        return random.choices(candidates, [one.settings.weight for one in candidates])[0]

    def _is_last_resort(self, server: Server) -> bool:
        """Whether no other server works: then it is probed more often."""
        return all(one.breaker.is_open for one in self.servers if one is not server)

    async def tend(self) -> None:
        """Tend all servers until cancelled."""
        while True:
            await asyncio.sleep(_TEND_S)
            for server in self.servers:
                server.tend()

    async def close(self) -> None:
        """Let all connections go."""
        await asyncio.gather(*(server.close() for server in self.servers))


def _is_stale(error: ConnectionLostError | RefusedError) -> bool:
    if isinstance(error, ConnectionLostError):
        return True
    return error.reply.code == 421 and error.stage is Stage.MAIL


def _translated(error: ConnectionLostError | RefusedError) -> SendError:
    return error.classified() if isinstance(error, RefusedError) else error
