"""The SMTP servers of the channel, and the choice among them.

A message is sent to one server, over an open connection. Connections are opened in the background, so a slow greeting
delays no message. Another server takes over only if the first certainly did not get the message: the server was
unreachable, or the connection was lost before the final dot.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from functools import partial

from services.email_sender.delivery import Delivery
from services.email_sender.encoder import Encoder
from services.email_sender.failures import ConnectionLostError, NoSmtpUtf8Error
from services.email_sender.message import Mail
from services.email_sender.server import OPENING_S, ClosedError, Server
from services.email_sender.settings import SmtpSettings
from services.email_sender.tls import TlsContexts
from shared.errors import SendError, StopChannelError, UnavailableError
from shared.lifecycle import end_tasks
from shared.logs import get_logger
from shared.sending.provider import Capacity, Changed, ServerState, ignore_change

_TEND_S = 1.0


class Servers:
    """All servers of the channel."""

    def __init__(self, smtp: SmtpSettings, encoder: Encoder, changed: Changed = ignore_change) -> None:
        self._smtp = smtp
        contexts = TlsContexts(smtp.ca_file)
        self.servers: Sequence[Server] = [Server(one, smtp, encoder, contexts.of(one)) for one in smtp.servers]
        for server in self.servers:
            server.others_left = partial(self._others_left, server)
            server.freed = self._freed
            server.awaited = self._awaited
        self._changed = changed
        self._waiting: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: StopChannelError | None = None
        self._wanted = 0

    def _others_left(self, server: Server) -> bool:
        """Return whether another server works."""
        return any(not one.breaker.is_open for one in self.servers if one is not server)

    def available(self) -> bool:
        """Return whether any server may be tried now."""
        return any(one.breaker.admits(last_resort=self._is_last_resort(one)) for one in self.servers)

    def _awaited(self) -> bool:
        """Return whether a message waits for a connection and none will be open soon."""
        return bool(self._waiting) and not any(one.coming for one in self.servers)

    def _elsewhere(self, tried: Sequence[Server]) -> bool:
        """Return whether a server that a message has not been to has a free open connection."""
        return any(one.free and one.breaker.admits(last_resort=False) for one in self.servers if one not in tried)

    def _admitted(self) -> list[Server]:
        return [one for one in self.servers if one.breaker.admits(last_resort=self._is_last_resort(one))]

    def capacity(self, wanted: int = 0) -> Capacity:
        """Return how many messages could start now on open connections; opens more, until `wanted` are open.

        Raises StopChannelError, once, if every server has refused us since the last call.
        """
        error, self._refused = self._refused, None
        if error is not None:
            raise error
        admitted = self._admitted()
        self._wanted = wanted
        self._open_more(admitted, wanted)
        capacities = [one.capacity() for one in admitted]
        starts, connections = sum(one.starts for one in capacities), sum(one.connections for one in admitted)
        # while there is room for more connections, a further message would open one, and start too late
        opened = connections >= wanted or all(one.connections >= one.concurrency for one in admitted)
        lasting = sum(one.lasting for one in capacities) if opened else 0
        if connections:
            connections += sum(one.coming for one in admitted)
        if starts:
            return Capacity(starts, 0.0, connections, lasting)
        soon_s = OPENING_S if connections < wanted else 0.0
        return Capacity(0, min((one.in_s for one in capacities if one.in_s), default=soon_s), connections, lasting)

    def _open_more(self, admitted: Sequence[Server], wanted: int) -> None:
        """Open connections until `wanted` are open or should be soon; if none is open, one at each server.

        The first of these to greet is used first.
        """
        connections = sum(one.connections for one in admitted)
        if connections and connections + sum(one.coming for one in admitted) >= wanted:
            return
        able = [one for one in admitted if one.may_open()]
        if wanted > 0 and not connections:
            for one in able:
                if not one.opening:
                    self._open(one)
        missing = wanted - sum(one.connections + one.coming for one in admitted)
        while missing > 0 and (able := [one for one in able if one.may_open()]):
            chosen = _by_weight(able)
            if not self._open(chosen):
                able.remove(chosen)
            missing -= 1

    def _open(self, server: Server) -> bool:
        """Open a connection in the background; return False if the breaker does not allow it."""
        admission = server.breaker.enter(last_resort=self._is_last_resort(server))
        if admission is None:
            return False
        task = asyncio.create_task(self._opened(server, server.open_ahead(admission)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _opened(self, server: Server, opening: Coroutine[None, None, None]) -> None:
        try:
            await opening
        except StopChannelError as error:
            try:
                self._refused_by(server, error)
            except StopChannelError as stop:
                self._refused = stop
        except SendError as error:
            get_logger().info("not_connected", server=server.settings.name, reason=error.reason)
        except Exception:
            get_logger().exception("connecting_failed", server=server.settings.name)
        finally:
            self._freed()
            self._changed()

    def _freed(self) -> None:
        """Wake the messages that wait for a connection: one has become free or was closed."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def send(self, delivery: Delivery) -> None:
        """Hand over one message to one of the servers; raises a SendError unless it is accepted.

        A server that refuses us is set aside while the others continue; raises StopChannelError once every server
        refuses us. With a single server, the message from `following` is announced ahead of its turn.
        """
        tried: list[Server] = []
        if len(self.servers) > 1:
            delivery.following = None
            delivery.elsewhere = partial(self._elsewhere, tried)
        failure: SendError | None = None
        unable: list[NoSmtpUtf8Error] = []
        while (server := await self._chosen(delivery.mail, tried)) is not None:
            tried.append(server)
            admission = server.breaker.enter(last_resort=self._is_last_resort(server))
            if admission is None:
                continue
            try:
                await server.send(delivery, admission)
            except ClosedError:
                tried.remove(server)
            except (UnavailableError, ConnectionLostError) as error:
                failure = error
            except StopChannelError as error:
                failure = self._refused_by(server, error)
            except NoSmtpUtf8Error as error:
                unable.append(error)
            else:
                return
            finally:
                if server.lost:
                    server.lost = False
                    self._open_more(self._admitted(), self._wanted)
        raise failure or self._untaken(unable)

    def _untaken(self, unable: Sequence[NoSmtpUtf8Error]) -> SendError:
        """Return the error for a message that some servers are unable to take, if any, and no other was tried."""
        if unable:
            return unable[0] if len(unable) == len(self.servers) else unable[0].for_now()
        return UnavailableError("no server is tried for a while, after failures of all", code="breaker")

    def _refused_by(self, server: Server, error: StopChannelError) -> UnavailableError:
        """Set aside a server that refuses us; raises StopChannelError if no other is left.

        The channel's pause then replaces the breakers: all servers are tried again after the channel is resumed.
        """
        server.refusal = error.reason
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

    async def _chosen(self, mail: Mail, tried: Sequence[Server]) -> Server | None:
        """Choose a server by weight among those with a free connection; wait for one if all are in use.

        If no connection is open anywhere, choose any server, which opens a connection for the message.
        """
        only = self.servers[0]
        if len(self.servers) == 1 and not tried and only.serves(mail):
            return only
        while True:
            candidates = [one for one in self._admitted() if one not in tried]
            if len(candidates) <= 1 and not any(one.connections for one in candidates):
                return candidates[0] if candidates else None
            chosen = self._choose(mail, candidates)
            if chosen is not None:
                return chosen
            await self._wait()

    def _choose(self, mail: Mail, candidates: Sequence[Server]) -> Server | None:
        """Choose a server; None if the message must wait for a connection that is in use."""
        for one in candidates:
            if one.reserved(mail):
                return one
        chosen = _by_weight(candidates)
        free = [one for one in candidates if one.capacity().starts > 0]
        if chosen in free:
            return chosen
        if chosen.may_open() and not chosen.opening and any(one.connections for one in candidates):
            self._open(chosen)  # its share grows with its connections
        if free:
            return _by_weight(free)
        if any(one.connections and not one.free for one in candidates):
            return None
        return _by_weight([one for one in candidates if one.free] or candidates)

    async def _wait(self) -> None:
        """Wait until a connection becomes free or is closed."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def _is_last_resort(self, server: Server) -> bool:
        """Return whether no other server works, so that this one is probed more often."""
        return all(one.breaker.is_open for one in self.servers if one is not server)

    async def tend(self) -> None:
        """Tend all servers until cancelled."""
        while True:
            await asyncio.sleep(_TEND_S)
            for server in self.servers:
                server.tend()

    async def close(self) -> None:
        """Close all connections."""
        await end_tasks(list(self._tasks))
        await asyncio.gather(*(server.close() for server in self.servers))


def _by_weight(servers: Sequence[Server]) -> Server:
    return random.choices(servers, [one.settings.weight for one in servers])[0]
