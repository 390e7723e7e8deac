"""What is handed over to a server: a message, or one after the other over the same connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiosmtplib import SMTPResponse

from services.email_sender.message import Mail
from shared.sending.provider import Proceed, Receipt, Start, at_once, note_acceptance

NextMail = Callable[[], Mail | None]


def _never() -> bool:
    return False


@dataclass(slots=True, eq=False)
class Delivery:
    """One message to send, the start to await before any of it is sent, and the source of the next message.

    With `proceed` the message from `following` takes its place once it was accepted. `ahead` is that message, if it was
    announced; `words` is the reply that accepted the message; `rested_from` is since when the connection had been idle;
    `elsewhere` is whether a server that it has not been to has a free open connection.

    A dataclass, since one is made for many messages: setting a field of a struct of msgspec takes ten times as long.
    """

    mail: Mail
    start: Start = at_once
    following: NextMail | None = None
    proceed: Proceed | None = None
    ahead: Mail | None = None
    words: str = ""
    rested_from: float = 0.0
    elsewhere: Callable[[], bool] = _never

    def accepted(self, response: SMTPResponse) -> None:
        """Note that the server accepted the message."""
        self.words = words = f"{response.code} {response.message}".rstrip()
        note_acceptance(self.mail.message_id, words)

    def receipt(self) -> Receipt:
        """Return the receipt for the message, once it was accepted."""
        return Receipt(self.mail.message_id, self.words)

    def turn_to_next(self) -> bool:
        """After an acceptance, turn to the message that was announced with it; return False if it is not its turn."""
        ahead, self.ahead = self.ahead, None
        if self.proceed is None or ahead is None:
            return False
        start = self.proceed(self.receipt())
        if start is None:
            return False
        self.mail, self.start = ahead, start
        return True
