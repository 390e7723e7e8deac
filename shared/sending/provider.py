"""The interface between the sending loop and a channel.

A channel renders a job into a message of its own type, then hands it to its provider. It reports failures with the
outcome classes of `shared.errors`. Any other exception is logged with its traceback. It counts as `transient` before
the start of the hand-over and as `uncertain` after it; once the provider's acceptance is noted (`note_acceptance`), it
changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
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
    """Start without waiting."""


Noted = Callable[[str, str], None]
NOTED: ContextVar[Noted | None] = ContextVar("acceptance", default=None)
"""What `note_acceptance` calls, in the task that sends the message."""


def note_acceptance(message_id: str, words: str) -> None:
    """Note that the provider accepted the message that the calling task sends.

    A channel calls this before it does anything else with the acceptance. From here on the message counts as sent,
    whatever is raised. If a channel does not call it, the returned receipt notes the acceptance.
    """
    noted = NOTED.get()
    if noted is not None:
        noted(message_id, words)


class NotStartedError(KurirError):
    """Raised by a `Start` if the message must not be handed over now; a channel lets it through."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Changed = Callable[[], None]


def ignore_change() -> None:
    """Ignore the change."""


class Capacity(NamedTuple):
    """How many messages could start now, each on its own open connection.

    If none can, ask again in `in_s` seconds. `connections` is how many are open, in use or not. `lasting` of them can
    start another message as soon as they have sent one, because their server has no rate of its own; 0 while a further
    message would open a connection instead of waiting for one.
    """

    starts: float = math.inf
    in_s: float = 0.0
    connections: float = math.inf
    lasting: float = 0


class ServerState(NamedTuple):
    """The state of one server: whether it may be tried, and whether it refuses our credentials."""

    server: str
    available: bool
    refuses: bool


class Receipt(msgspec.Struct, frozen=True):
    """The provider's reply to a message that it accepted; its text is made legible here."""

    message_id: str
    response: str

    def __post_init__(self) -> None:
        """Make the provider's text legible."""
        both = self.message_id + self.response
        if both.isascii() and both.isprintable() and len(both) <= LONGEST_ID:  # nearly always
            return
        message_id, response = legible(self.message_id, LONGEST_ID), legible(self.response)
        if message_id is not self.message_id:
            msgspec.structs.force_setattr(self, "message_id", message_id)
        if response is not self.response:
            msgspec.structs.force_setattr(self, "response", response)


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """Whether the provider can be reached and accepts our credentials; `detail` holds further facts."""

    reachable: bool
    authenticated: bool
    detail: dict[str, object] = field(default_factory=dict)


class RenderedMessage(msgspec.Struct, frozen=True):
    """Base of a channel's message; the log row shows `subject` ("" if the channel has none).

    A struct of msgspec, as its subclasses are: one is made for each message, and a frozen dataclass takes ten times as
    long to make.
    """

    job_id: str
    subject: str


MessageT = TypeVar("MessageT", bound=RenderedMessage)

Proceed = Callable[[Receipt], Start | None]
"""Takes the receipt of an accepted message; returns the start of the one from `following`, None if it must wait.

Must be called in the task that called `send_chained`.
"""


class Provider(Protocol[MessageT]):
    """How one channel sends one message."""

    @property
    def channel(self) -> str:
        """The channel's name."""
        ...

    async def open(self, changed: Changed = ignore_change) -> None:
        """Get ready; must not fail because the provider is away.

        The provider calls `changed` when it has opened a connection or failed to: `capacity` may have changed.
        """
        ...

    async def close(self) -> None:
        """Close the connections; called when no job is in flight."""
        ...

    def render(self, job: Job, blast: Blast) -> MessageT:
        """Render a job without I/O; raises PermanentError with the variable's name if it cannot."""
        ...

    async def send(self, message: MessageT, start: Start = at_once) -> Receipt:
        """Hand over one message; raises a SendError for every outcome but acceptance. Bounded in time.

        Await `start` when a connection is open and before any part of the message is sent on it, and again before
        the message is sent on another connection. It waits for the moment that the limits granted. Let its exceptions
        through, and keep the connection for the next message. Note the provider's acceptance with `note_acceptance`
        before anything else.
        """
        ...

    def capacity(self, wanted: int = 0) -> Capacity:
        """Return how many messages could start now; open connections in the background until `wanted` are open.

        A job is begun when there is a connection for it, so no handshake delays its start. Raises StopChannelError if
        no connection can be opened until an operator acts.
        """
        ...

    def available(self) -> bool:
        """Return whether any server may be tried now: False while every breaker is open and no probe is due."""
        ...

    async def status(self) -> ProviderStatus:
        """Connect and authenticate, outside the pool."""
        ...


@runtime_checkable
class PreparingProvider(Provider[MessageT], Protocol):
    """A provider that can do part of the work on a message in advance, such as a signature."""

    @property
    def prepares(self) -> bool:
        """Whether there is such work with its settings; if not, it is not asked."""
        ...

    def work_ahead(self, jobs: Sequence[tuple[Job, Blast]]) -> None:
        """Prepare jobs that will be rendered soon, in this order; must not raise.

        Only this sender holds these jobs. A job may be passed again, and may never be rendered.
        """
        ...

    def forget(self, job: Job) -> None:
        """Drop what was prepared for a job that this sender no longer holds. Must not raise."""
        ...


@runtime_checkable
class ChainingProvider(Provider[MessageT], Protocol):
    """A provider that sends one message after the other over the same connection.

    It may announce the next message to its server together with the end of the previous one, which saves a round trip
    per message. An announced message may be withdrawn: none of it was handed over.
    """

    @property
    def announces(self) -> bool:
        """Whether it announces messages: it needs the next one before the server has answered."""
        ...

    async def send_chained(
        self,
        message: MessageT,
        following: Callable[[], MessageT | None],
        start: Start = at_once,
        proceed: Proceed | None = None,
    ) -> Receipt:
        """Send as `send` does; may call `following` once for the message that the caller sends next.

        With `proceed` it may go on with that message over the same connection, and so with the one after it: it calls
        `proceed` with the receipt of the message that was accepted, and then sends the next one as if it had been
        called with it and the start returned. If `proceed` returns None, it returns that receipt. Whatever it returns
        or raises is about the message that it sent last.
        """
        ...

    def withdraw(self, message: MessageT) -> None:
        """Forget a message that `following` returned and that will not be sent now."""
        ...


@runtime_checkable
class ServersProvider(Protocol):
    """A provider that knows the state of each of its servers, for the sender's metrics."""

    def servers(self) -> Sequence[ServerState]:
        """Return the state of each server, named as in the settings."""
        ...
