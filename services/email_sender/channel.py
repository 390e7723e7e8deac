"""The channel `email`: renders a job and hands the message to an SMTP server (`Provider`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from services.email_sender.delivery import Delivery
from services.email_sender.encoder import Encoder
from services.email_sender.message import Frames, Mail
from services.email_sender.preparing import Preparations
from services.email_sender.server import Server
from services.email_sender.servers import Servers
from services.email_sender.settings import EmailSettings
from shared.blasts import Blast
from shared.channels import EMAIL
from shared.errors import SendError, StopChannelError, UnavailableError
from shared.jobs import Job
from shared.logs import get_logger
from shared.sending.provider import (
    Capacity,
    Changed,
    Proceed,
    ProviderStatus,
    Receipt,
    ServerState,
    Start,
    at_once,
    ignore_change,
)

CHECK_TIMEOUT_S = 15.0


class EmailChannel:
    """Sends mail; the sending loop opens and closes it on its own event loop."""

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings
        self._frames = Frames(settings.mail)
        self._encoder = Encoder(settings.identity.keys)
        self._servers: Servers | None = None
        self._tending: asyncio.Task[None] | None = None
        self._checking = asyncio.Lock()
        self._preparations = Preparations(self._frames, self._encoder)
        self._prepares = bool(settings.identity.keys)

    @property
    def channel(self) -> str:
        """The channel's name."""
        return EMAIL.name

    async def open(self, changed: Changed = ignore_change) -> None:
        """Set up the servers; connections are opened once there is something to send."""
        self._warn_of_unsigned()
        self._servers = Servers(self._settings.smtp, self._encoder, changed)
        self._tending = asyncio.create_task(self._servers.tend())
        await self._encoder.open()

    def _warn_of_unsigned(self) -> None:
        """Warn of domains whose mail is not authenticated; not an error, since a relay may sign it."""
        identity = self._settings.identity
        if identity.unaligned():
            get_logger().warning("sender_unaligned", domains=identity.unaligned(), return_path=identity.return_path)
        if identity.keys and identity.unsigned():
            get_logger().warning("dkim_key_missing", domains=identity.unsigned())

    async def close(self) -> None:
        """Close all connections."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        if self._servers is not None:
            await self._servers.close()
        self._preparations.close()
        await self._encoder.close()

    @property
    def prepares(self) -> bool:
        """Whether messages are signed before their turns (`PreparingProvider`)."""
        return self._prepares

    def work_ahead(self, jobs: Sequence[tuple[Job, Blast]]) -> None:
        """Start to sign the messages that will be sent soon (`PreparingProvider`)."""
        self._preparations.plan(jobs)

    def forget(self, job: Job) -> None:
        """Drop the prepared message of a job that has left this sender."""
        self._preparations.forget(job)

    def render(self, job: Job, blast: Blast) -> Mail:
        """Render a job; raises PermanentError, which names the variable, if that fails."""
        prepared = self._preparations.take(job) if self._prepares else None
        return prepared or self._frames.get(blast).fill(job)

    @property
    def announces(self) -> bool:
        """It announces messages (`ChainingProvider`)."""
        return True

    async def send(self, message: Mail, start: Start = at_once) -> Receipt:
        """Hand over one message; raises a SendError unless the server accepts it."""
        delivery = Delivery(message, start)
        await self._opened().send(delivery)
        return delivery.receipt()

    async def send_chained(
        self,
        message: Mail,
        following: Callable[[], Mail | None],
        start: Start = at_once,
        proceed: Proceed | None = None,
    ) -> Receipt:
        """Hand over one message and announce the one from `following` with its end (`ChainingProvider`)."""
        servers = self._opened()
        delivery = Delivery(message, start, following, proceed)
        try:
            await servers.send(delivery)
        finally:
            # if it was not sent over the connection reserved for it, release that connection
            servers.withdraw(delivery.mail)
        return delivery.receipt()

    def withdraw(self, message: Mail) -> None:
        """Cancel the announcement of a message that is not sent now."""
        if self._servers is not None:
            self._servers.withdraw(message)

    def capacity(self, wanted: int = 0) -> Capacity:
        """Return how many messages could start at once on open connections; opens more, until `wanted` are open."""
        return Capacity(0, connections=0) if self._servers is None else self._servers.capacity(wanted)

    def available(self) -> bool:
        """Return whether any server may be tried now."""
        return self._servers is None or self._servers.available()

    def servers(self) -> Sequence[ServerState]:
        """Return the state of each server (`ServersProvider`)."""
        return [] if self._servers is None else self._servers.states()

    async def status(self) -> ProviderStatus:
        """Connect and log in to every server, outside the pool, and return what each offers."""
        servers = self._opened()
        async with self._checking:
            found = await asyncio.gather(*(self._check(one) for one in servers.servers))
        return ProviderStatus(
            reachable=any(status["reachable"] for status in found),
            authenticated=any(status["authenticated"] for status in found),
            detail={"servers": found, "identity": self._settings.identity.describe()},
        )

    async def _check(self, server: Server) -> dict[str, object]:
        settings = server.settings
        status: dict[str, object] = {
            "server": settings.name,
            "reachable": False,
            "authenticated": False,
            "breaker": "open" if server.breaker.is_open else "closed",
            "breakerReason": server.breaker.reason,
            "refusesUs": server.refusal or None,
            "connections": {"idle": len(server.idle), "active": server.active, "most": server.concurrency},
        }
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                connection = await server.check()
        except StopChannelError as error:
            return status | {"reachable": True, "error": error.reply or error.message}
        except SendError as error:
            return status | {"error": error.reply or error.message}
        except TimeoutError:
            return status | {"error": f"no answer within {CHECK_TIMEOUT_S:g} s"}
        found = {
            "reachable": True,
            "authenticated": True,
            "greeting": connection.greeting,
            "encryption": connection.encryption,
            "offers": {name.upper(): value for name, value in connection.extensions.items()},
        }
        await connection.close()
        return status | found

    def _opened(self) -> Servers:
        if self._servers is None:
            raise UnavailableError("the sender has not started yet", code="starting")
        return self._servers
