"""The webhook channel: posts signed deliveries to one endpoint and reports their outcomes.

An endpoint that fails several times in a row is not tried for a while (see `shared.sending.breaker`), and one that asks
to wait is left alone. Connections are opened by the deliveries themselves: so each failure to connect is the outcome of
one, and its reason is seen where its owner looks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

import aiohttp
from yarl import URL

from services.webhook_sender.addresses import RefusedAddressError
from services.webhook_sender.connector import Connection, Link
from services.webhook_sender.replies import Answer, hidden_texts, loss_of, receipt_of, refusal_of
from shared.blasts import Blast
from shared.channels import WEBHOOK
from shared.clock import Clock
from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    ServerFailedError,
    StopChannelError,
    UnavailableError,
)
from shared.http_sending.answers import read_beginning
from shared.http_sending.connector import START
from shared.http_sending.hand_over import HandOver
from shared.jobs import Job
from shared.lifecycle import end_tasks
from shared.sealing import Seal, SealError
from shared.sending.breaker import Admission, Breaker
from shared.sending.provider import (
    Capacity,
    Changed,
    ProviderStatus,
    Receipt,
    RenderedMessage,
    Start,
    at_once,
    ignore_change,
    note_acceptance,
)
from shared.special_addresses import ALLOW
from shared.webhook_urls import check_url
from shared.webhooks import Endpoint, sign

# the longest that one answer's Retry-After keeps all deliveries back; the next one asks again
LONGEST_QUIET_S = 60.0
# a name may resolve to a special address for a moment: a name server's fault, not the client's
REFUSED_FOR_S = 600.0


class Delivery(RenderedMessage, frozen=True):
    """A delivery ready to be signed and posted."""

    webhook_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Target:
    """An endpoint's URL; `place` is its host and port, `problem` why nothing can be sent there ("" if it can)."""

    url: URL
    place: str
    problem: str


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One try at posting a delivery: where to, signed by which secrets."""

    target: _Target
    secrets: list[str]
    admission: Admission
    start: Start

    @property
    def hidden(self) -> list[str]:
        """What nothing may show."""
        return hidden_texts(self.target.url, self.secrets)


class WebhookChannel:
    """Sends deliveries to one endpoint; implements `Provider`."""

    channel = WEBHOOK.name

    def __init__(self, endpoint: Endpoint, connection: Connection, clock: Clock, seal: Seal) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._clock = clock
        self._seal = seal
        self._link: Link | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._aim()

    def _aim(self) -> None:
        """Start afresh with the endpoint's URL: what was seen of an earlier one does not count."""
        self._target = _target(self._endpoint.url, self._connection)
        self._breaker = Breaker(self._clock, self._connection.breaker)
        self._quiet_until = 0.0
        self._refused_since: float | None = None

    def update(self, endpoint: Endpoint) -> None:
        """Take the endpoint's new state; deliveries under way end as they began."""
        moved = endpoint.url != self._endpoint.url
        self._endpoint = endpoint
        if not moved:
            return
        self._aim()
        if self._link is not None:
            task = asyncio.create_task(self._link.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            self._link = Link(self._connection)

    async def open(self, changed: Changed = ignore_change) -> None:  # noqa: ARG002 -- nothing is opened ahead
        """Open the session; connections are opened once there is something to send, and are reused."""
        self._link = Link(self._connection)

    async def close(self) -> None:
        """Close all connections."""
        await end_tasks(list(self._retiring))
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def render(self, job: Job, blast: Blast) -> Delivery:  # noqa: ARG002 -- a delivery is whole in its job
        """Return a job's delivery; raises PermanentError if the job has none."""
        body = job.recipient.variables.get("body")
        if not isinstance(body, str) or not job.recipient.name:
            raise PermanentError("it has no body or no webhook-id", code="render")
        return Delivery(job.job_id, "", job.recipient.name, body.encode())

    async def send(self, message: Delivery, start: Start = at_once) -> Receipt:
        """Post one delivery; raises a SendError unless it is accepted."""
        link = self._link
        if link is None:
            raise UnavailableError("the channel is not open", code="closed")
        async with link.used():
            with self._enter() as admission:
                attempt = _Attempt(self._target, self._open_secrets(admission), admission, start)
                answer = await self._post(link, message, attempt)
                if attempt.target is self._target:
                    self._refused_since = None
                if answer.is_acceptance:
                    admission.worked()
                    return receipt_of(answer, message.webhook_id, attempt.hidden)
                error = refusal_of(answer, attempt.hidden)
                self._note_refusal(error, answer, attempt)
                raise error

    def capacity(self, wanted: int = 0) -> Capacity:  # noqa: ARG002 -- nothing is opened ahead
        """Return how many connections may still be used; raises StopChannelError if the URL cannot be used."""
        if self._target.problem:
            raise _unusable(self._target.problem)
        most = self._connection.connections
        return Capacity(max(0, most - (self._link.in_use if self._link else 0)), connections=most)

    def available(self) -> bool:
        """Return whether the endpoint may be tried now."""
        return self._clock.monotonic() >= self._quiet_until and self._breaker.admits(last_resort=True)

    async def status(self) -> ProviderStatus:
        """Open a connection, outside the pool, without sending anything on it."""
        target = self._target
        detail: dict[str, object] = {
            "url": str(target.url.origin()) if not target.problem else "",
            "breaker": "open" if self._breaker.is_open else "closed",
            "breakerReason": self._breaker.reason,
        }
        if target.problem:
            return ProviderStatus(False, False, {**detail, "error": target.problem})
        link = Link(self._connection)
        try:
            await link.open_ahead(target.url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            refused = _refused_address(error)
            words = refused.words if refused else loss_of(error, target.place, begun=False).message
            return ProviderStatus(False, False, {**detail, "error": words})
        finally:
            await link.close()
        return ProviderStatus(True, True, detail)

    def _enter(self) -> Admission:
        """Begin a try; raises why there can be none now."""
        if self._target.problem:
            raise _unusable(self._target.problem)
        quiet_s = self._quiet_until - self._clock.monotonic()
        if quiet_s > 0:
            raise UnavailableError(f"not tried: the endpoint asked to wait, for {quiet_s:.0f} s more", code="wait")
        admission = self._breaker.enter(last_resort=True)
        if admission is None:
            raise UnavailableError(f"not tried after too many failures: {self._breaker.reason}", code="breaker")
        return admission

    def _open_secrets(self, admission: Admission) -> list[str]:
        """Return the secrets that sign now; raises UnavailableError if none does, since nothing leaves unsigned."""
        try:
            secrets = self._endpoint.open_secrets(self._seal, self._clock.now_ms())
            words = "" if secrets else "it has no secret that signs now"
        except SealError:
            # this sender's fault, not the endpoint's: it must not be disabled
            words = "its secrets were sealed with another KURIR_INTERNAL_SECRET"
        if words:
            admission.failed(words)
            raise UnavailableError(words, code="sealed")
        return secrets

    async def _post(self, link: Link, message: Delivery, attempt: _Attempt) -> Answer:
        """Return the endpoint's answer; raises a SendError if none arrives.

        The status decides as soon as it is there: what becomes of the body changes nothing.
        """
        hand_over = HandOver(self._connection.answer_s)
        START.set(attempt.start)
        answer: Answer | None = None
        posted = link.session.post(
            attempt.target.url,
            data=message.body,
            headers=self._signed(message, attempt.secrets),
            allow_redirects=False,
            trace_request_ctx=hand_over,
        )
        try:
            async with hand_over.bounded(), posted as response:
                answer = _read_head(response)
                if answer.is_acceptance:
                    note_acceptance(message.webhook_id, str(answer.status))
                answer = replace(answer, raw=await read_beginning(response.content))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if answer is None:
                # without its cause, whose text quotes the URL
                raise self._lost(error, attempt, begun=hand_over.begun) from None
        finally:
            hand_over.end()
        return answer

    def _signed(self, message: Delivery, secrets: list[str]) -> dict[str, str]:
        now_s = self._clock.now_ms() // 1000
        return {
            "webhook-id": message.webhook_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign(secrets, message.webhook_id, now_s, message.body),
        }

    def _note_refusal(self, error: SendError, answer: Answer, attempt: _Attempt) -> None:
        """Let the breaker count a server's failure, and leave the endpoint alone for as long as it asks."""
        if answer.is_server_failure:
            failure = error if isinstance(error, ServerFailedError) else ServerFailedError(error.message)
            attempt.admission.judge(failure)
        else:
            attempt.admission.worked()
        if isinstance(error, DeferredError) and error.wait_s is not None and attempt.target is self._target:
            quiet_s = min(error.wait_s, LONGEST_QUIET_S * self._connection.time_scale)
            self._quiet_until = max(self._quiet_until, self._clock.monotonic() + quiet_s)

    def _lost(self, error: Exception, attempt: _Attempt, *, begun: bool) -> SendError:
        refused = _refused_address(error)
        if refused is not None:
            return self._refused(refused, attempt.admission)
        lost = loss_of(error, attempt.target.place, begun=begun)
        if isinstance(lost, ServerFailedError):
            attempt.admission.judge(lost)
        else:
            attempt.admission.failed(lost.message)
        return lost

    def _refused(self, error: RefusedAddressError, admission: Admission) -> SendError:
        """Return the error for a name that resolves to a special address: stop once it has for ten minutes."""
        words = f"{error.words}, which webhooks cannot reach; {ALLOW} can open it"
        admission.failed(words)
        now = self._clock.monotonic()
        since = now if self._refused_since is None else self._refused_since
        if now - since < REFUSED_FOR_S * self._connection.time_scale:
            self._refused_since = since
            return UnavailableError(words, code="address")
        self._refused_since = None  # once it is enabled again, it has as long again
        return StopChannelError(words, code="address")


def _target(url: str, connection: Connection) -> _Target:
    problem = check_url(url, connection.allowed) or ""
    if problem:
        return _Target(URL(), "", problem)
    parts = URL(url)
    return _Target(parts, f"{parts.host_subcomponent}:{parts.port}", "")


def _unusable(problem: str) -> StopChannelError:
    return StopChannelError(f"its URL cannot be used: {problem}", code="address")


def _read_head(response: aiohttp.ClientResponse) -> Answer:
    retry_after, location, encoding = (
        response.headers.get(name, "") for name in ("Retry-After", "Location", "Content-Encoding")
    )
    return Answer(response.status, response.reason or "", b"", encoding, retry_after, location, time.time())


def _refused_address(error: BaseException | None) -> RefusedAddressError | None:
    """Return the refusal that an error of aiohttp came from, None if it came from none."""
    while error is not None and not isinstance(error, RefusedAddressError):
        error = error.__cause__
    return error
