"""The answers to the messages that are posted one after the other: what each means, and the message that follows it."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.whatsapp_sender.driver import Driver
from services.whatsapp_sender.payload import WhatsAppMessage
from services.whatsapp_sender.replies import Answer, is_server_failure, read_answer, retry_after_s
from shared.errors import DeferredError, SendError, ServerFailedError, UnavailableError, UncertainError
from shared.http_sending.answers import Posted
from shared.http_sending.posting import Body
from shared.logs import get_logger
from shared.sending.breaker import Admission
from shared.sending.provider import Proceed, Receipt, note_acceptance


class Turns:
    """The messages of one `send_chained`, whose turns come one after the other."""

    def __init__(
        self,
        driver: Driver,
        admission: Admission,
        following: Callable[[], WhatsAppMessage | None],
        proceed: Proceed | None,
    ) -> None:
        self._driver = driver
        self._admission = admission
        self._following = following
        self._proceed = proceed
        self._outcome: Receipt | Exception

    def take(self, posted: Posted) -> Body | None:
        """Note an acceptance, and return the body of the next message if its turn has come; raises no Exception."""
        try:
            return self._taken(posted)
        except Exception as error:
            self._outcome = error  # of ours: it must not count as one of the connection
            return None

    def outcome(self) -> Receipt:
        """Return the receipt for the last message, or raise its error, once its answer was taken."""
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def _taken(self, posted: Posted) -> Body | None:
        answer = answer_of(posted, self._driver)
        reading = _noted(answer)
        if not isinstance(reading, Receipt):
            self._outcome = _judged(answer, reading, self._admission)
            return None
        self._outcome = reading
        self._admission.worked()
        if self._proceed is None:
            return None
        ahead = self._following()
        start = self._proceed(reading) if ahead is not None else None
        return Body(ahead.body, start) if ahead is not None and start is not None else None


def answer_of(posted: Posted, driver: Driver) -> Answer:
    """Return what the driver's provider answered, without our secret."""
    raw = without_secret(driver.secret, posted.raw)
    names = driver.names
    return Answer(posted.status, raw, posted.retry_after, time.time(), posted.location, names.location, posted.broken)


def _noted(answer: Answer) -> Receipt | SendError:
    """Return the receipt of an acceptance, which is noted before anything else, or the error of any other answer.

    A 2xx that a bug of ours fails to read counts as an acceptance too, so that it is not sent twice.
    """
    try:
        receipt = read_answer(answer)
    except SendError as error:
        return error
    except Exception:
        if not 200 <= answer.status < 300:
            raise
        get_logger().exception("acceptance_unreadable", status=answer.status)
        note_acceptance("", answer.text)
        raise
    note_acceptance(receipt.message_id, receipt.response)
    return receipt


def _judged(answer: Answer, error: SendError, admission: Admission) -> SendError:
    """Return the error of an answer other than an acceptance, and let the breaker count it."""
    if is_server_failure(answer):
        return _server_failure(answer, admission)
    if isinstance(error, UnavailableError | UncertainError):
        # many redirects or unreadable acceptances in a row are not from the provider
        admission.failed(error.message)
    else:
        admission.worked()
    return error


def _server_failure(answer: Answer, admission: Admission) -> SendError:
    """Return the error for a gateway's 5xx: the message may succeed soon, but many in a row open the breaker."""
    code = f"http {answer.status}"
    failure = ServerFailedError(f"HTTP {answer.status}", code=code, reply=answer.text)
    admission.judge(failure)
    wait_s = retry_after_s(answer)
    return failure if wait_s is None else DeferredError(failure.message, code=code, reply=answer.text, wait_s=wait_s)


def without_secret(secret: str, raw: bytes) -> bytes:
    """Return a response without our secret, which a proxy's error page may show among the request's headers."""
    return raw.replace(secret.encode(), b"***") if secret else raw
