"""How a conversation with an SMTP server fails: by its no to a command, or by a connection that is lost."""

from __future__ import annotations

import socket
import ssl

from aiosmtplib.errors import SMTPResponseException, SMTPServerDisconnected, SMTPTimeoutError

from services.email_sender.replies import Reply, Stage, classify
from shared.errors import KurirError, SendError, ServerFailedError

# what a connection raises that is no longer there, or speaks no SMTP
LOST = (SMTPServerDisconnected, SMTPTimeoutError, ConnectionError, TimeoutError, SMTPResponseException)


class RefusedError(KurirError):
    """The server's answer to one command was no; `reply` is that answer, `recipient` whom the message was for."""

    def __init__(self, stage: Stage, reply: Reply) -> None:
        super().__init__(f"{stage.value}: {reply.words}")
        self.stage = stage
        self.reply = reply
        self.recipient = ""

    def classified(self) -> SendError:
        """Return the outcome class that it means."""
        return classify(self.stage, self.reply, self.recipient)


class ConnectionLostError(ServerFailedError):
    """The connection was lost, or an answer did not come, before the message was handed over."""

    def __init__(self, where: str, cause: BaseException) -> None:
        super().__init__(f"connection lost {where}: {reason_of(cause)}", code="connection_lost")


class ClosedMeanwhileError(ConnectionLostError):
    """A connection was closed while the start was awaited on it: nothing of the message was said."""

    def __init__(self) -> None:
        super().__init__("while the start was awaited", ConnectionResetError("closed by the server"))


class OutOfStepError(KurirError):
    """The server's answers do not fit the commands: it gave one more than it was asked for."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the server answered out of step: {reply.words}")


def code_of(error: BaseException) -> str:
    """Return a word for why a server could not be spoken to, as rows show it."""
    if isinstance(error, socket.gaierror):
        return "dns"
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return "tls"
    if isinstance(error, SMTPResponseException):
        return "malformed"
    return "timeout" if isinstance(error, TimeoutError) else "connect"


def reason_of(error: BaseException) -> str:
    """Return in words what an exception of a connection says."""
    if isinstance(error, SMTPResponseException):
        return f"{error.code} {error.message}" if error.code > 0 else error.message
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
