"""The WhatsApp channel: posts messages to a provider over open connections and reports their outcomes.

A message lost before its body was sent was certainly not delivered; after that, its outcome is uncertain. If the
provider fails several times in a row, it is not tried for a while (see `shared.sending.breaker`). What differs between
providers is in their drivers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import aiohttp
from yarl import URL

from services.whatsapp_sender.bodies import read_object
from services.whatsapp_sender.credentials_check import check_credentials
from services.whatsapp_sender.driver import Driver
from services.whatsapp_sender.payload import Payloads, WhatsAppMessage
from services.whatsapp_sender.replies import Answer
from services.whatsapp_sender.settings import Connection
from services.whatsapp_sender.turns import Turns, answer_of, without_secret
from shared.blasts import Blast
from shared.channels import WHATSAPP
from shared.clock import Clock
from shared.errors import SendError, ServerFailedError, UnavailableError, UncertainError
from shared.http_sending.answers import Posted, read_beginning
from shared.http_sending.connector import StartingConnector
from shared.http_sending.posting import AnswerLostError, Body, Poster
from shared.jobs import Job
from shared.lifecycle import end_tasks
from shared.logs import get_logger
from shared.sending.breaker import Admission, Breaker
from shared.sending.provider import (
    Capacity,
    Changed,
    Proceed,
    ProviderStatus,
    Receipt,
    Start,
    at_once,
    ignore_change,
)

_OPENING_S = 0.25
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 2.0


class WhatsAppChannel:
    """Sends messages through one driver; implements `ChainingProvider`."""

    channel = WHATSAPP.name

    def __init__(self, driver: Driver, connection: Connection, clock: Clock) -> None:
        self._driver = driver
        self._payloads = Payloads(driver)
        self._connection = connection
        self._breaker = Breaker(clock, connection.breaker)
        self._clock = clock
        self._connector: StartingConnector | None = None
        self._poster: Poster | None = None
        self._changed = ignore_change
        self._opening: set[asyncio.Task[None]] = set()
        self._open_at = 0.0

    async def open(self, changed: Changed = ignore_change) -> None:
        """Get ready; connections are opened once there is something to send, and are reused."""
        self._changed = changed
        self._connector = StartingConnector(self._connection.connect_s)
        self._poster = _poster(self._connector, self._driver, self._connection)

    async def close(self) -> None:
        """Close all connections."""
        await end_tasks(list(self._opening))
        connector, self._connector, self._poster = self._connector, None, None
        if connector is not None:
            await connector.close()

    def render(self, job: Job, blast: Blast) -> WhatsAppMessage:
        """Render a job; raises PermanentError, which names the variable, if that fails."""
        return self._payloads.get(blast).fill(job)

    @property
    def announces(self) -> bool:
        """It takes the next message once the provider has answered (`ChainingProvider`)."""
        return False

    async def send(self, message: WhatsAppMessage, start: Start = at_once) -> Receipt:
        """Post one message; raises a SendError unless it is accepted."""
        return await self.send_chained(message, lambda: None, start)

    async def send_chained(
        self,
        message: WhatsAppMessage,
        following: Callable[[], WhatsAppMessage | None],
        start: Start = at_once,
        proceed: Proceed | None = None,
    ) -> Receipt:
        """Post one message, and with `proceed` those that follow, over one connection (`ChainingProvider`)."""
        if self._poster is None:
            raise UnavailableError("the channel is not open", code="closed")
        admission = self._breaker.enter(last_resort=True)
        if admission is None:
            raise UnavailableError(f"not tried after too many failures: {self._breaker.reason}", code="breaker")
        with admission:
            turns = Turns(self._driver, admission, following, None if admission.probe else proceed)
            await self._posted(self._poster, Body(message.body, start), admission, turns)
            return turns.outcome()

    def withdraw(self, message: WhatsAppMessage) -> None:
        """Do nothing: no message is announced before its turn."""

    async def _posted(self, poster: Poster, body: Body, admission: Admission, turns: Turns) -> None:
        try:
            await _post(poster, body, turns.take)
        except SendError as lost:
            if isinstance(lost, ServerFailedError):
                admission.judge(lost)
            else:
                admission.failed(lost.message)
            raise

    def capacity(self, wanted: int = 0) -> Capacity:
        """Return how many connections are free; opens more, until `wanted` are open or being opened."""
        connector = self._connector
        if connector is None:
            return Capacity(0, connections=0)
        free = connector.free
        connections = free + connector.in_use
        for _ in range(wanted - connections - len(self._opening)):
            if self._clock.monotonic() < self._open_at or not self._open_ahead(connector):
                break
        # until those that are wanted are open, a further message would open one, and start too late
        lasting = connections if connections - connector.awaited >= wanted else 0
        return Capacity(free, 0.0 if free or connections >= wanted else _OPENING_S, connections, lasting)

    def _open_ahead(self, connector: StartingConnector) -> bool:
        """Open a connection in the background; return False if the breaker does not allow it."""
        admission = self._breaker.enter(last_resort=True)
        if admission is None:
            return False
        task = asyncio.create_task(self._opened(connector, admission))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _opened(self, connector: StartingConnector, admission: Admission) -> None:
        try:
            with admission:
                await connector.open_ahead(URL(self._driver.messages_url))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            admission.failed(f"cannot connect: {_words(error)}")
            backoff_s = min(_FIRST_BACKOFF_S * 2**self._breaker.failures, _LONGEST_BACKOFF_S)
            self._open_at = self._clock.monotonic() + backoff_s
        except Exception:
            get_logger().exception("connecting_failed")
        finally:
            self._changed()

    def available(self) -> bool:
        """Return whether the provider may be tried now."""
        return self._breaker.admits(last_resort=True)

    async def status(self) -> ProviderStatus:
        """Check the settings by posting an empty message, which reaches no recipient, over separate connections.

        `check_credentials` derives from the responses which setting is wrong, if any. Where the provider describes the
        sending number, the status has that too.
        """
        detail = {
            "provider": self._driver.name.lower(),
            "url": self._driver.url,
            "breaker": "open" if self._breaker.is_open else "closed",
            "breakerReason": self._breaker.reason,
        }
        status = await check_credentials(self._driver, detail, self._post_empty)
        if not status.authenticated or not self._driver.number_url:
            return status
        return replace(status, detail={**status.detail, "number": await self._describe_number()})

    async def _describe_number(self) -> dict[str, object]:
        """Return what the provider says about the sending number; {} if it does not say it to us."""
        async with _open_session(self._driver, self._connection) as session:
            try:
                async with (
                    asyncio.timeout(self._connection.answer_s),
                    session.get(self._driver.number_url, allow_redirects=False) as response,
                ):
                    raw = without_secret(self._driver.secret, await read_beginning(response.content))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                return {"error": _words(error)}
        return self._driver.read_number(read_object(raw))

    async def _post_empty(self, driver: Driver) -> Answer:
        connector = StartingConnector(self._connection.connect_s)
        answers: list[Posted] = []
        async with connector:
            await _post(_poster(connector, driver, self._connection), Body(b"{}", at_once), answers.append)
        return answer_of(answers[0], driver)


async def _post(poster: Poster, body: Body, go_on: Callable[[Posted], Body | None]) -> None:
    """Post messages; raises a SendError if no answer arrives to the latest."""
    try:
        await poster.post(body, go_on)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _lost(error) from error


def _lost(error: Exception) -> SendError:
    if isinstance(error, AnswerLostError):
        reason = _words(error.__cause__ or error)
        return UncertainError(f"no response after the message was sent: {reason}", code="lost")
    reason = _words(error)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.ClientSSLError):
        return UnavailableError(f"cannot connect: {reason}", code="connect")
    return ServerFailedError(f"the connection was lost before the message was sent: {reason}", code="lost")


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _headers(driver: Driver) -> dict[str, str]:
    # answers come as they are: a small one cannot become a large one
    how = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    return {**driver.headers, **how}


def _poster(connector: StartingConnector, driver: Driver, connection: Connection) -> Poster:
    return Poster(connector, URL(driver.messages_url), _headers(driver), connection.answer_s)


def _open_session(driver: Driver, connection: Connection) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers=_headers(driver),
        timeout=aiohttp.ClientTimeout(total=None),  # the connector has the bounds
        connector=StartingConnector(connection.connect_s),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
