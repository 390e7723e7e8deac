"""Classifies a provider's responses: by WhatsApp's error code (`codes`), else by the HTTP status. Pure.

| outcome | HTTP status without a known code |
| --- | --- |
| deferred | 429 |
| transient | 400 without JSON, 408, 409, 425, 5xx; anything unknown |
| permanent | 400 with JSON; 405, 406, 411, 413, 414, 415, 417, 422, 431; 4xx with a code that is not listed |
| stop | 401, 402, 403, 407; 404 and 410 without a code: wrong credentials, no credit, no such app or channel |
| unavailable | 3xx, which is never followed: neither Qiscus nor Meta redirects |
| uncertain | an acceptance that names no message; a refusal that names one |
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from services.whatsapp_sender.bodies import (
    ApiFault,
    find_any_id,
    find_fault,
    find_message_id,
    find_wamid,
    may_refuse,
    own_fault,
    read_object,
    read_text,
    says_no,
    stated_status,
)
from services.whatsapp_sender.codes import DEFERRED, KINDS, KNOWN, NO_SUCH_NUMBER, OPTED_OUT
from shared.errors import (
    OPTED_OUT_REASON,
    DeferredError,
    PermanentError,
    SendError,
    StopChannelError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from shared.foreign_text import legible
from shared.http_sending.answers import asked_wait_s
from shared.sending.provider import Receipt

STOP_STATUSES = frozenset({401, 402, 403, 407})
# nothing at this URL: usually a wrong channel id, app code or URL
NOT_FOUND = frozenset({404, 410})
PERMANENT_STATUSES = frozenset({405, 406, 411, 413, 414, 415, 417, 422, 431})
# temporary 4xx
_PASSING = frozenset({408, 409, 425})
_HTTP_STATUSES = frozenset(status.value for status in HTTPStatus if status >= 400)
# other APIs may use the same numbers as Meta's codes below this, so they count only in an error of Meta's form; so do
# those that are a status of success too, which a gateway repeats in its refusals
LEAST_DISTINCT = 100
_SUCCESSES = range(200, 300)


class Answer(msgspec.Struct, frozen=True):
    """An HTTP response.

    `now_s` is its time of arrival (seconds since the epoch), for a Retry-After with a date; `location` is a redirect's
    target; `check` are the settings that make up the URL it came from, that of the base URL first; `broken` is why its
    body is not complete, "" if it is.
    """

    status: int
    raw: bytes
    retry_after: str = ""
    now_s: float = 0.0
    location: str = ""
    check: tuple[str, ...] = ()
    broken: str = ""

    @property
    def text(self) -> str:
        """The provider's own words."""
        return legible(read_text(self.raw))


class Reading(msgspec.Struct, frozen=True):
    """What a response says: its JSON object ({} without one), its error, and its status.

    A status in the body takes precedence: proxies and gateways wrap refusals in a 200 or a 400.
    """

    body: dict[str, Any]
    fault: ApiFault | None
    status: int

    @property
    def code(self) -> int | None:
        """WhatsApp's error code, None without one."""
        return self.fault.code if self.fault else None

    @property
    def is_refusal(self) -> bool:
        """Whether it is not an acceptance."""
        return self.fault is not None or not 200 <= self.status < 300


def read(answer: Answer) -> Reading:
    """Parse a response."""
    body = read_object(answer.raw)
    fault: ApiFault | None = None
    status, telling = answer.status, may_refuse(body)
    if telling:
        fault, status = find_fault(body), stated_status(body) or status
    if fault is None and ((telling and says_no(body)) or (status >= 400 and body)):
        fault = own_fault(body)
        if fault.code is not None and not fault.is_metas and (fault.code < LEAST_DISTINCT or fault.code in _SUCCESSES):
            fault = ApiFault(None, fault.words)
    if fault is not None and fault.code in _HTTP_STATUSES - KNOWN:
        status, fault = fault.code, ApiFault(None, fault.words, fault.subcode, fault.is_metas)
    return Reading(body, fault, status)


def read_answer(answer: Answer) -> Receipt:
    """Return the receipt of an accepted message; raises the SendError of any other response."""
    reading = read(answer)
    message_id = find_message_id(reading.body)
    accepted = 200 <= answer.status < 300
    if accepted and not message_id and not reading.is_refusal:
        message_id = find_any_id(reading.body) if reading.body else find_wamid(answer.raw)
    if message_id and accepted:
        return Receipt(message_id, read_text(answer.raw))
    if message_id or not reading.is_refusal:
        words = f"refused, but with the message id {message_id}" if message_id else "accepted without a message id"
        words += f"; the answer broke off: {answer.broken}" if answer.broken else ""
        raise UncertainError(words, code=f"http {answer.status}", reply=answer.text)
    raise refusal(answer, reading)


def refusal(answer: Answer, reading: Reading) -> SendError:
    """Return the error for a response that is not an acceptance; a temporary one that names a wait is a deferral."""
    fault = reading.fault
    error = None
    if fault is not None and fault.code is not None:
        error = _by_code(fault, f"WhatsApp error {fault.code}: {fault.words}", answer)
    error = error or _by_status(answer, reading)
    wait_s = retry_after_s(answer) if isinstance(error, TransientError) else None
    return error if wait_s is None else DeferredError(error.message, code=error.code, reply=error.reply, wait_s=wait_s)


def is_server_failure(answer: Answer) -> bool:
    """Return whether the server failed rather than answered: 5xx with neither an error code nor a message id."""
    reading = read(answer)
    return reading.status >= 500 and reading.code is None and not find_message_id(reading.body)


def _by_code(fault: ApiFault, message: str, answer: Answer) -> SendError | None:
    code = fault.code or 0
    details: dict[str, str] = {"code": str(code), "reply": answer.text}
    if code in DEFERRED:
        return DeferredError(message, wait_s=retry_after_s(answer), **details)
    if code == OPTED_OUT:
        return PermanentError(message, suppress=f"{OPTED_OUT_REASON}: {code}", **details)
    if is_wrong_place(fault, answer.status):
        return StopChannelError(message, **details)
    kind = KINDS.get(code)
    return kind(message, **details) if kind else None


def is_wrong_place(fault: ApiFault, status: int) -> bool:
    """Return whether error 100, "invalid parameter", concerns the sending number or our log-in, not the message."""
    return fault.code == 100 and (
        status in NOT_FOUND or fault.subcode == NO_SUCH_NUMBER or "appsecret_proof" in fault.words
    )


def _by_status(answer: Answer, reading: Reading) -> SendError:
    fault, status = reading.fault, reading.status
    code = f"http {status}" if reading.code is None else str(reading.code)
    message = f"HTTP {status}" + (f": {fault.words}" if fault and fault.words else "")
    if status == 429:
        return DeferredError(message, code=code, reply=answer.text, wait_s=retry_after_s(answer))
    return _kind_of(status, reading)(_explained(message, answer), code=code, reply=answer.text)


def _kind_of(status: int, reading: Reading) -> type[SendError]:
    if 300 <= status < 400:
        return UnavailableError
    if status in STOP_STATUSES or (status in NOT_FOUND and reading.code is None):
        return StopChannelError
    coded = reading.code is not None and 400 <= status < 500 and status not in _PASSING
    if coded or status in PERMANENT_STATUSES or (status == 400 and reading.body):
        return PermanentError
    return TransientError


def _explained(message: str, answer: Answer) -> str:
    if 300 <= answer.status < 400:
        where = f" to {answer.location[:200]}" if answer.location else ""
        hint = f"; check {answer.check[0]}" if answer.check else ""
        return f"{message}: redirected{where}, but redirects are not followed{hint}"
    if answer.status in NOT_FOUND and answer.check:
        return f"{message}: check {', '.join(answer.check)}"
    return message


def retry_after_s(answer: Answer) -> float | None:
    """Return the wait that a response asks for, None if it asks for none."""
    return asked_wait_s(answer.retry_after, answer.now_s)
