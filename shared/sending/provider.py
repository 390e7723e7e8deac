"""The seam between the sending loop and a channel: what a channel must be able to do.

A channel renders a job into a message of its own kind (`Message`), then hands it to its provider. Everything
that can go wrong is said with the outcome classes of `shared.errors`. Anything else that it raises is logged with
its traceback, and means what the hand-over's two marks say: `transient` before its start, `uncertain` from then on, and
nothing at all once the provider's yes was noted (`note_acceptance`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from shared.blasts import Blast
from shared.errors import KurirError
from shared.foreign_text import legible
from shared.jobs import Job

LONGEST_ID = 1000


Start = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """Start without waiting for anything."""


Noted = Callable[[str, str], None]
_noted: ContextVar[Noted | None] = ContextVar("acceptance", default=None)


def note_acceptance(message_id: str, words: str) -> None:
    """Note the provider's yes to the message that the calling task sends; a channel does so before all else.

    From here on the message counts as sent, whatever is raised. A channel that leaves it out notes its yes by
    returning a receipt.
    """
    noted = _noted.get()
    if noted is not None:
        noted(message_id, words)


@contextmanager
def acceptance_noted_by(noted: Noted) -> Iterator[None]:
    """Have `note_acceptance` call `noted` in this task while the block runs."""
    token = _noted.set(noted)
    try:
        yield
    finally:
        _noted.reset(token)


class NotStartedError(KurirError):
    """The message must not be handed over now, says its `Start`; nothing of it was. A channel lets it through."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Changed = Callable[[], None]


def unheard() -> None:
    """Tell nobody."""


class Room(NamedTuple):
    """How many messages could be started at once, each on an open connection of its own.

    Where none can, ask again in `in_s` seconds. `connections` is how many are open, in use or not.
    """

    starts: float = math.inf
    in_s: float = 0.0
    connections: float = math.inf


class ServerState(NamedTuple):
    """How one server of a provider stands: whether it may be tried, and whether it refuses us (a wrong password)."""

    server: str
    available: bool
    refuses: bool


class Receipt(msgspec.Struct, frozen=True):
    """What the provider said when it accepted a message, in its own words, which are made legible here."""

    message_id: str
    response: str
    accepted: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Make what came from outside legible."""
        msgspec.structs.force_setattr(self, "message_id", legible(self.message_id, LONGEST_ID))
        msgspec.structs.force_setattr(self, "response", legible(self.response))


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """Whether the provider can be reached and accepts our credentials; `detail` holds what it offers."""

    reachable: bool
    authenticated: bool
    detail: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RenderedMessage:
    """Base of a channel's message; `subject` is what the log row shows ("" where the channel has none)."""

    job_id: str
    subject: str


MessageT = TypeVar("MessageT", bound=RenderedMessage)


class Provider(Protocol[MessageT]):
    """How one channel sends one message."""

    @property
    def channel(self) -> str:
        """The channel's name."""
        ...

    async def open(self, changed: Changed = unheard) -> None:
        """Get ready; must not fail because the provider is away.

        `changed` is to be called when a connection has been opened or could not be: there may be another room.
        """
        ...

    async def close(self) -> None:
        """Let connections go; called when nothing is in flight."""
        ...

    def render(self, job: Job, blast: Blast) -> MessageT:
        """Render a job, CPU only; raises PermanentError with the variable's name where it cannot be."""
        ...

    async def send(self, message: MessageT, start: Start = at_once) -> Receipt:
        """Hand over one message; raises a SendError for every outcome but acceptance. Bounded in time.

        `start` is awaited once nothing remains to be done but to hand over: with a connection open, before a word of
        the message is said on it, and again before it is said on another. It waits for the moment that the limits
        have granted. What it raises is let through, and the connection is kept for the next message. The provider's
        yes is noted with `note_acceptance` before anything else is done with it.
        """
        ...

    def room(self, wanted: int = 0) -> Room:
        """Return how much could be started now; open further connections meanwhile, until `wanted` are open in all.

        A job is begun when there is room for it, so no handshake comes between its begin and its start. Raises
        StopChannelError where no connection can be opened until a person has done something.
        """
        ...

    def available(self) -> bool:
        """Say whether any server may be tried now: False while every breaker is open and none is due a probe."""
        ...

    async def status(self) -> ProviderStatus:
        """Connect and authenticate for real, outside the pool."""
        ...


@runtime_checkable
class PreparingProvider(Provider[MessageT], Protocol):
    """A provider whose messages take work that can be done ahead, such as a signature."""

    def work_ahead(self, jobs: Sequence[tuple[Job, Blast]]) -> None:
        """Take note of jobs that will be rendered soon, in this order; must not raise.

        They were fetched, and are held by this sender alone; a job may be named again, and may never be rendered.
        """
        ...

    def forget(self, job: Job) -> None:
        """Drop what was made of a job, if anything is left: this sender holds it no more. Must not raise."""
        ...


@runtime_checkable
class ChainingProvider(Provider[MessageT], Protocol):
    """A provider that can tell its server of the next message together with the end of the one before.

    That saves a round trip a message. What was told of may still be withdrawn: nothing of it was handed over.
    """

    async def send_chained(
        self, message: MessageT, following: Callable[[], MessageT | None], start: Start = at_once
    ) -> Receipt:
        """Send as `send` does; may call `following` once, for the message that this caller will send next."""
        ...

    def withdraw(self, message: MessageT) -> None:
        """Forget a message that `following` gave and that will not be sent now."""
        ...


@runtime_checkable
class ServersProvider(Protocol):
    """A provider that knows how each of its servers stands, for the sender's metrics."""

    def servers(self) -> Sequence[ServerState]:
        """Return the state of each server; their names are those of the settings."""
        ...
