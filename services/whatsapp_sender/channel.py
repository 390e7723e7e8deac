"""The WhatsApp channel: posts one message to Qiscus over warm connections, and says what came of it.

What is lost before the body was sent was surely not delivered; what is lost after it is uncertain. A server that
fails several times in a row is left alone for a while (see `shared.sending.breaker`).
"""

from __future__ import annotations

import time

import aiohttp

from services.whatsapp_sender.hand_over import HandOver, noting_hand_over
from services.whatsapp_sender.inquiry import ask
from services.whatsapp_sender.payload import WhatsAppMessage, render_message
from services.whatsapp_sender.replies import Answer, is_server_failure, read_answer, retry_after_s
from services.whatsapp_sender.settings import QiscusSettings
from services.whatsapp_sender.starting import START, StartingConnector
from shared.blasts import Blast
from shared.channels import WHATSAPP
from shared.clock import Clock
from shared.errors import DeferredError, SendError, ServerFailedError, UnavailableError, UncertainError
from shared.jobs import Job
from shared.logs import get_logger
from shared.sending.breaker import Breaker, Turn
from shared.sending.provider import ProviderStatus, Receipt, Room, Start, at_once, note_acceptance

MAX_ANSWER_BYTES = 64 * 1024
_CHUNK_BYTES = 16 * 1024
# shorter than servers keep idle connections, so that none is met closed
_KEEP_ALIVE_S = 15.0
_MOST_CONNECTIONS = 500


class WhatsAppChannel:
    """Sends messages through one Qiscus app; implements `Provider`."""

    channel = WHATSAPP.name

    def __init__(self, settings: QiscusSettings, clock: Clock) -> None:
        self._settings = settings
        self._breaker = Breaker(clock, settings.breaker)
        self._session: aiohttp.ClientSession | None = None
        self._used_at = -_KEEP_ALIVE_S

    async def open(self) -> None:
        """Open the session; connections are made when they are needed, and reused."""
        self._session = _open_session(self._settings)

    async def close(self) -> None:
        """Let the connections go."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def render(self, job: Job, blast: Blast) -> WhatsAppMessage:
        """Render a job; raises PermanentError that names the variable."""
        return render_message(job, blast)

    async def send(self, message: WhatsAppMessage, start: Start = at_once) -> Receipt:
        """Post one message; raises a SendError for every outcome but acceptance."""
        if self._session is None:
            raise UnavailableError("the channel is not open", code="closed")
        turn = self._breaker.enter(last_resort=True)
        if turn is None:
            raise UnavailableError(f"not tried after too many failures: {self._breaker.reason}", code="breaker")
        with turn:
            answer = await self._post(self._session, message.body, turn, start)
            if is_server_failure(answer):
                raise _server_failure(answer, turn)
            try:
                receipt = read_answer(answer)
            except (UnavailableError, UncertainError) as error:
                # redirects, and acceptances not from WhatsApp: many in a row are not from Qiscus
                turn.failed(error.message)
                raise
            except BaseException:
                turn.worked()
                raise
            turn.worked()
            return receipt

    def room(self) -> Room:
        """Qiscus has no limits but those of the queue; a connection is kept for a while after it was used."""
        return Room(ready=time.monotonic() - self._used_at < _KEEP_ALIVE_S)

    def available(self) -> bool:
        """Say whether Qiscus may be tried now."""
        return self._breaker.admits(last_resort=True)

    async def status(self) -> ProviderStatus:
        """Ask Qiscus, over connections of their own, with a message to nobody, which is never sent.

        See `inquiry` for what the answers say of the URL, the app code, the channel id and the secret.
        """
        return await ask(
            self._settings,
            {
                "url": self._settings.url,
                "breaker": "open" if self._breaker.is_open else "closed",
                "breakerReason": self._breaker.reason,
            },
            self._ask,
        )

    async def _ask(self, settings: QiscusSettings) -> Answer:
        async with _open_session(settings) as session:
            return await self._post(session, b"{}")

    async def _post(
        self, session: aiohttp.ClientSession, body: bytes, turn: Turn | None = None, start: Start = at_once
    ) -> Answer:
        hand_over = HandOver(self._settings.answer_s)
        START.set(start)
        posted = session.post(
            self._settings.messages_url, data=body, allow_redirects=False, trace_request_ctx=hand_over
        )
        try:
            async with hand_over.bounded(), posted as response:
                raw = _without(self._settings.secret_key, await _read_answer(response))
                _note_yes(Answer(response.status, raw))
                retry_after, location = (response.headers.get(name, "") for name in ("Retry-After", "Location"))
                return Answer(response.status, raw, retry_after, time.time(), location)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            lost = _lost(error, hand_over)
            if turn is not None:
                _judge(lost, turn)
            raise lost from error
        finally:
            hand_over.end()
            self._used_at = time.monotonic()


def _server_failure(answer: Answer, turn: Turn) -> SendError:
    """Return what a gateway's 5xx means: this message may work soon; many in a row mean that the server is down."""
    code = f"http {answer.status}"
    failure = ServerFailedError(f"HTTP {answer.status}", code=code, reply=answer.text)
    turn.judge(failure)
    wait_s = retry_after_s(answer)
    return failure if wait_s is None else DeferredError(failure.message, code=code, reply=answer.text, wait_s=wait_s)


def _judge(error: SendError, turn: Turn) -> None:
    if isinstance(error, ServerFailedError):
        turn.judge(error)
    else:
        turn.failed(error.message)


def _note_yes(answer: Answer) -> None:
    """Note a yes. A 2xx that cannot be read for a fault of our own is one too: the message must not go out again."""
    try:
        receipt = read_answer(answer)
    except SendError:
        return
    except Exception:
        if not 200 <= answer.status < 300:
            raise
        get_logger().exception("acceptance_unread", status=answer.status)
        note_acceptance("", answer.text)
        return
    note_acceptance(receipt.message_id, receipt.response)


def _lost(error: Exception, hand_over: HandOver) -> SendError:
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    if hand_over.begun:
        return UncertainError(f"the answer was lost: {reason}", code="lost")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.ClientSSLError):
        return UnavailableError(f"cannot connect: {reason}", code="connect")
    return ServerFailedError(f"the connection was lost before the message was sent: {reason}", code="lost")


def _without(secret: str, raw: bytes) -> bytes:
    """Return an answer without our secret, which pages of proxies may show among the request's headers."""
    return raw.replace(secret.encode(), b"***") if secret else raw


async def _read_answer(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer, or its beginning if it is absurdly long."""
    parts = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        parts += chunk
        if len(parts) >= MAX_ANSWER_BYTES:
            break
    return bytes(parts[:MAX_ANSWER_BYTES])


def _open_session(settings: QiscusSettings) -> aiohttp.ClientSession:
    headers = {
        "Qiscus-App-Id": settings.app_code,
        "Qiscus-Secret-Key": settings.secret_key,
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    timeout = aiohttp.ClientTimeout(
        total=None,  # the answer's is the hand-over's
        connect=settings.connect_s,
        sock_connect=settings.connect_s,
    )
    connector = StartingConnector(limit=_MOST_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_S)
    return aiohttp.ClientSession(
        headers=headers,
        timeout=timeout,
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[noting_hand_over()],
    )
