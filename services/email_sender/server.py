"""One SMTP server: a pool of long-lived connections with its own limits and circuit breaker.

Connections are opened before messages need them. If one turns out to be closed, the message is sent over another open
one, or over a new one if no other is open.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial

from services.email_sender.connection import Connection
from services.email_sender.delivery import Delivery, NextMail
from services.email_sender.encoder import Encoder
from services.email_sender.envelope import Announced
from services.email_sender.failures import ClosedMeanwhileError, ConnectionLostError, NoSmtpUtf8Error, RefusedError
from services.email_sender.login import Credentials
from services.email_sender.message import Mail
from services.email_sender.oauth import TokenSource
from services.email_sender.replies import Stage, alike
from services.email_sender.server_rate import RateReachedError, ServerRate
from services.email_sender.settings import ServerSettings, SmtpSettings
from shared.clock import SystemClock
from shared.errors import (
    KurirError,
    PermanentError,
    Refusal,
    SendError,
    StopChannelError,
    UnavailableError,
    UncertainError,
)
from shared.logs import get_logger
from shared.sending.breaker import Admission, Breaker
from shared.sending.provider import (
    Capacity,
    Changed,
    NotStartedError,
    ignore_change,
)

LEAST_STALE_S = 5.0
# a connection that takes longer than this to open is not counted on: another may be opened
OPENING_S = 0.25
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 2.0
_STALE_GROWTH = 1.01


class ClosedError(KurirError):
    """A connection turned out to be closed, and another server, not tried yet, has an open one."""


class Server:
    """One SMTP server; `freed` is called when a connection becomes free or is closed."""

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
        self._in_use = 0
        self._opening: list[float] = []
        self._open_at = 0.0
        # whether a connection was closed and not yet replaced
        self.lost = False
        self.freed: Changed = ignore_change
        # whether a message waits for a connection
        self.awaited: Callable[[], bool] = lambda: False
        self._awaiting: dict[str, Connection] = {}
        # with fewer connections than concurrent sends, or spaced starts, the next message may have to wait for others
        self.chains = settings.rate is None and self.concurrency >= smtp.concurrency
        self.active = 0
        self._rate = ServerRate(settings.name, settings.rate, self._clock)
        # how many messages it has accepted
        self.accepted = 0
        # why it refuses all recipients while other servers work, "" if it does not
        self._set_aside = ""
        self.others_left: Callable[[], bool] = lambda: False
        # why it last refused us, "" once it has accepted a message
        self.refusal = ""
        # shorter once the server has been seen to close idle connections sooner
        self._stale_s = smtp.timeouts.idle_s
        self._leaving: set[asyncio.Future[None]] = set()

    def capacity(self) -> Capacity:
        """Return how many messages could start now, each on an open connection."""
        now = self._rate.capacity(self.free)
        return now if self._rate.applies else now._replace(lasting=self.connections)

    @property
    def free(self) -> int:
        """The number of connections that are open and not in use."""
        return sum(map(self._is_fresh, self.idle))

    @property
    def connections(self) -> int:
        """The number of open connections, in use or not."""
        return self._in_use + len(self._awaiting) + self.free

    @property
    def coming(self) -> int:
        """The number of connections that should be open soon."""
        return sum(self._clock() - since < OPENING_S for since in self._opening)

    @property
    def opening(self) -> int:
        """The number of connections being opened, however long that has taken."""
        return len(self._opening)

    def may_open(self) -> bool:
        """Return whether another connection may be opened now: after a failure there is a short backoff.

        Unusable idle connections are dropped first, so that they take no place.
        """
        self._drop_unusable()
        occupied = self.active + len(self._awaiting) + len(self.idle) + len(self._opening)
        return occupied < self.concurrency and self._clock() >= self._open_at

    def open_ahead(self, admission: Admission) -> Coroutine[None, None, None]:
        """Open a connection for later messages, admitted by its breaker; awaiting the result may raise a SendError."""
        since = self._clock()
        self._opening.append(since)
        return self._open_ahead(admission, since)

    async def _open_ahead(self, admission: Admission, since: float) -> None:
        try:
            with admission:
                async with self._slots:
                    self.idle.append(await self._connect())
        except SendError as error:
            self._judge(error, admission)
            self._open_at = self._clock() + min(_FIRST_BACKOFF_S * 2**self.breaker.failures, _LONGEST_BACKOFF_S)
            raise
        finally:
            self._opening.remove(since)

    def reserved(self, mail: Mail) -> bool:
        """Return whether this message was announced on a connection, which is reserved for it."""
        return mail.job_id in self._awaiting

    def serves(self, mail: Mail) -> bool:
        """Return whether a connection is ready for a message now."""
        return mail.job_id in self._awaiting or bool(self.idle and self._is_fresh(self.idle[-1]))

    async def send(self, delivery: Delivery, admission: Admission) -> None:
        """Hand over one message admitted by its breaker, after awaiting its start; raises a SendError unless accepted.

        If `following` gives the next message, it is announced together with the end of this one. With `proceed` that
        one is sent too, and so on: the error is that of the last message.
        """
        if admission.probe:
            delivery.proceed = None
        with admission:
            async with self._slots:
                self.active += 1
                try:
                    await (self._send_spaced(delivery) if self._rate.applies else self._send(delivery))
                except SendError as error:
                    self._judge(error, admission)
                    raise
                finally:
                    self.active -= 1

    def _note_accepted(self) -> None:
        self.breaker.worked()
        self.accepted += 1
        self._set_aside = ""
        self.refusal = ""

    async def _send_spaced(self, delivery: Delivery) -> None:
        granted = delivery.start
        with self._rate.spacing(granted) as spaced:
            delivery.start = spaced
            try:
                await self._send(delivery)
            finally:
                delivery.start = granted

    async def _send(self, delivery: Delivery) -> None:
        connection = self._awaiting.pop(delivery.mail.job_id, None) or self._take_idle()
        while connection is not None:
            try:
                await self._exchange(connection, delivery)
            except (ConnectionLostError, RefusedError) as error:
                if not _is_stale(error):
                    raise _translated(error) from error
            else:
                return
            # the server had closed it between two messages, which is not a failure of this one
            self._stale_s = min(self._stale_s, max(self._clock() - delivery.rested_from, LEAST_STALE_S))
            connection = self._take_idle()
        if delivery.elsewhere():
            raise ClosedError
        # on a connection that is opened here, a chain ends with its first message: the next one finds the connection
        # reserved, and so may find that the server has closed it, which is not a failure of that message either
        delivery.proceed = None
        try:
            with suppress(ClosedMeanwhileError):
                await self._exchange(await self._connect(), delivery)
                return
            await self._exchange(await self._connect(), delivery)
        except RefusedError as error:
            raise error.classified() from error

    async def _exchange(self, connection: Connection, delivery: Delivery) -> None:
        """Hand over one message after the other for as long as each is followed by an announced one."""
        following = None
        if delivery.following is not None and self.chains:
            following = partial(self._announced, connection, delivery, delivery.following)
        delivery.ahead = None  # a connection that was lost meanwhile may have had it
        self._in_use += 1
        try:
            while True:
                delivery.rested_from = connection.used_at
                if connection.announced is not None:
                    content = connection.announced.content
                else:
                    content = await self._encoded(connection, delivery.mail)
                try:
                    await delivery.start()
                except NotStartedError:
                    self._encoder.keep(delivery.mail, content, eight_bit=connection.eight_bit)
                    raise
                if not connection.is_sound():
                    raise ClosedMeanwhileError
                await connection.send(delivery.mail.envelope, content, delivery.accepted, following)
                self._note_accepted()
                if not delivery.turn_to_next():
                    return
        finally:
            self._in_use -= 1
            self._keep(connection)

    async def _encoded(self, connection: Connection, mail: Mail) -> bytes:
        """Return a message encoded for a connection that is ready for it."""
        if mail.envelope.utf8 and not connection.offers("smtputf8"):
            raise NoSmtpUtf8Error
        await connection.clear()
        return await self._encoder.encode(mail, eight_bit=connection.eight_bit)

    def _announced(self, connection: Connection, delivery: Delivery, following: NextMail) -> Announced | None:
        """Return a message ready to be announced, None if it must wait for its turn.

        Errors are only logged, so that they do not fail the current message; the next one's own attempt reports them.
        """
        if self.awaited():
            return None  # leave the connection to a message that waits for one
        try:
            mail = following()
            if mail is None or (mail.envelope.utf8 and not connection.offers("smtputf8")):
                return None
            content = self._encoder.encode_at_once(mail, eight_bit=connection.eight_bit)
            if content is None:
                return None
            delivery.ahead = mail
            return Announced(mail.job_id, mail.envelope, content)
        except Exception:
            get_logger().exception("announcement_failed", server=self.settings.name)
            return None

    def withdraw(self, mail: Mail) -> None:
        """Cancel an announced message by closing its connection; nothing of it was handed over."""
        connection = self._awaiting.pop(mail.job_id, None)
        if connection is not None:
            connection.abort()
            self._dismiss(connection)
            self.freed()

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
            self.lost = True
            self._dismiss(connection)
        self.freed()

    async def _connect(self) -> Connection:
        connection = Connection(self._credentials, self._smtp, self._tls)
        await connection.open()
        return connection

    async def check(self) -> Connection:
        """Connect and log in outside the pool, as a check; raises a SendError."""
        return await self._connect()

    def _judge(self, error: SendError, admission: Admission) -> None:
        """Record a failure with the breaker, or weigh a refusal; see `_judge_refusal`."""
        if isinstance(error, RateReachedError):
            return
        if isinstance(error, ConnectionLostError):
            admission.judge(error)
            return
        if isinstance(error, UnavailableError | UncertainError):
            admission.failed(error.reason)
            return
        if isinstance(error, StopChannelError):
            return  # `Servers` handles it: the effect depends on the other servers
        cause = error.__cause__
        if isinstance(error, PermanentError) and isinstance(cause, RefusedError):
            self._judge_refusal(error, cause, admission)
        else:
            self._answered(admission)

    def _answered(self, admission: Admission) -> None:
        """Record that the server answered for a message, so it no longer refuses us as such."""
        admission.worked()
        if not self._set_aside:
            self.refusal = ""

    def _judge_refusal(self, error: PermanentError, cause: RefusedError, admission: Admission) -> None:
        """Attach the refusal to the error, to be counted; raise UnavailableError if the server is already set aside."""
        if self._set_aside and self.others_left():
            admission.failed(self._set_aside)
            raise UnavailableError(self._set_aside, code=error.code, reply=error.reply) from error
        self._answered(admission)
        kind, most = alike(cause.reply, cause.recipient)
        name = self.settings.name
        error.refusal = Refusal(name, kind, most, lambda: self.accepted, self.others_left, self.set_aside)

    def set_aside(self, reason: str) -> None:
        """Stop using the server, except for occasional probes, until it accepts a message."""
        self._set_aside = self.refusal = reason
        self.breaker.open(reason)

    def tend(self) -> None:
        """Close connections that have been idle for too long."""
        # one early close may have had another reason, so the bound returns to the setting within minutes
        self._stale_s = min(self._stale_s * _STALE_GROWTH, self._smtp.timeouts.idle_s)
        self._drop_unusable()

    def _drop_unusable(self) -> None:
        """Drop the idle connections that the server has closed or that have been idle for too long."""
        for connection in [one for one in self.idle if not self._is_fresh(one)]:
            self.idle.remove(connection)
            self._dismiss(connection)

    def _dismiss(self, connection: Connection) -> None:
        """Close a connection in the background."""
        leaving = asyncio.ensure_future(connection.close())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close all connections, within a bounded time."""
        self.idle.extend(self._awaiting.values())
        self._awaiting.clear()
        while self.idle:
            self._dismiss(self.idle.pop())
        await asyncio.gather(*self._leaving)


def _is_stale(error: ConnectionLostError | RefusedError) -> bool:
    if isinstance(error, ConnectionLostError):
        return True
    return error.reply.code == 421 and error.stage is Stage.MAIL


def _translated(error: ConnectionLostError | RefusedError) -> SendError:
    return error.classified() if isinstance(error, RefusedError) else error
