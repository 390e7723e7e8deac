"""What is handed over to a server: a message, or one after the other over the same connection."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiosmtplib import SMTPResponse

from services.email_sender.message import Mail
from shared.sending.provider import Proceed, Receipt, Start, at_once, note_acceptance
from shared.smtp.replies import Reply

NextMail = Callable[[], Mail | None]


class Delivery(msgspec.Struct):
    """One message to send, the start to await before any of it is sent, and the source of the next message.

    With `proceed` the message from `following` takes its place once it was accepted. `ahead` is that message, if it was
    announced; `rested_from` is since when the connection had been idle.
    """

    mail: Mail
    start: Start = at_once
    following: NextMail | None = None
    proceed: Proceed | None = None
    ahead: Mail | None = None
    rested_from: float = 0.0

    def accepted(self, response: SMTPResponse) -> None:
        """Note that the server accepted the message."""
        note_acceptance(self.mail.message_id, f"{response.code} {response.message}")

    def receipt(self, reply: Reply) -> Receipt:
        """Return the receipt for the message."""
        return Receipt(self.mail.message_id, reply.words, (self.mail.envelope.recipient,))

    def turn_to_next(self, reply: Reply) -> bool:
        """After an acceptance, turn to the message that was announced with it; return False if it is not its turn."""
        ahead, self.ahead = self.ahead, None
        if self.proceed is None or ahead is None:
            return False
        start = self.proceed(self.receipt(reply))
        if start is None:
            return False
        self.mail, self.start = ahead, start
        return True


class Accepted(msgspec.Struct, frozen=True):
    """A server's acceptance of a message: the server's name and its reply."""

    server: str
    reply: Reply
