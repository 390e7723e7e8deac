"""How an SMTP session fails: the server refuses a command, or the connection is lost."""

from __future__ import annotations

import socket
import ssl

from aiosmtplib import SMTPResponseException, SMTPServerDisconnected, SMTPTimeoutError

from services.email_sender.replies import Stage, classify
from shared.errors import (
    KurirError,
    PermanentError,
    SendError,
    ServerFailedError,
    TryLaterError,
    UncertainError,
)
from shared.smtp.replies import Reply

# raised by a connection that is lost, or whose server does not speak SMTP
LOST = (SMTPServerDisconnected, SMTPTimeoutError, ConnectionError, TimeoutError, SMTPResponseException)


class RefusedError(KurirError):
    """The server refused a command with `reply`; `recipient` is the message's recipient."""

    def __init__(self, stage: Stage, reply: Reply) -> None:
        super().__init__(f"{stage.value}: {reply.words}")
        self.stage = stage
        self.reply = reply
        self.recipient = ""

    def classified(self) -> SendError:
        """Return the refusal as an outcome class."""
        return classify(self.stage, self.reply, self.recipient)


class ConnectionLostError(ServerFailedError):
    """The connection was lost, or a reply did not arrive in time, before the message was handed over."""

    def __init__(self, where: str, cause: BaseException) -> None:
        super().__init__(f"connection lost {where}: {reason_of(cause)}", code="connection_lost")


class ClosedMeanwhileError(ConnectionLostError):
    """A connection was closed while its message waited for its start; nothing of the message was sent."""

    def __init__(self) -> None:
        super().__init__("while waiting for the start", ConnectionResetError("closed by the server"))


class NoSmtpUtf8Error(PermanentError):
    """The server does not offer SMTPUTF8 (RFC 6531), which the recipient's address needs; another server may."""

    def __init__(self) -> None:
        super().__init__("the server does not take international addresses (SMTPUTF8)", code="smtputf8")

    def for_now(self) -> TryLaterError:
        """Return the error while another server, which may offer it, cannot be tried."""
        return TryLaterError(self.message, code=self.code)


class OutOfStepError(KurirError):
    """The server's replies do not match the commands: it sent an extra one."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the server's replies do not match the commands: {reply.words}")


def not_accepted(reply: Reply) -> RefusedError | UncertainError:
    """Return the error for a reply to a whole message other than an acceptance.

    A 3xx is a reply to another command: the one to the message, which may accept it, has not arrived yet.
    """
    if reply.code >= 400:
        return RefusedError(Stage.DOT, reply)
    return UncertainError("no reply to the message, but one to another command", code=reply.codes, reply=reply.words)


def code_of(error: BaseException) -> str:
    """Return the error code, as shown in rows, for why a connection failed."""
    if isinstance(error, socket.gaierror):
        return "dns"
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return "tls"
    if isinstance(error, SMTPResponseException):
        return "malformed"
    return "timeout" if isinstance(error, TimeoutError) else "connect"


def reason_of(error: BaseException) -> str:
    """Return a connection's exception in words."""
    if isinstance(error, SMTPResponseException):
        return f"{error.code} {error.message}" if error.code > 0 else error.message
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
