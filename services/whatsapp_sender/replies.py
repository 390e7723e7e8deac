"""What Qiscus's answers mean: WhatsApp's error codes first, the HTTP status where there is none. Pure.

The codes are Meta's, which Qiscus passes on (developers.facebook.com, WhatsApp Cloud API, error codes):

| outcome | codes |
| --- | --- |
| deferred | 4, 613, 80007, 130429, 131056; HTTP 429 |
| transient | 1, 2, 131000, 131016, 131057, 133004; HTTP 5xx without a code; anything unknown |
| permanent, the recipient's | 131021, 131026, 131030, 131047, 131049, 130472, 133010; 131050 (opted out): suppressed |
| permanent, the data's | 100, 131008, 131009, 132000, 132001, 132005, 132007, 132012 |
| stop | 0, 3, 10, 190, 200–299, 368, 131005, 131031, 131042, 131048; HTTP 401, 403 |
| stop_blast | 132015, 132016 |
| uncertain | an acceptance that names no message |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from shared.errors import (
    OPTED_OUT_REASON,
    DeferredError,
    PermanentError,
    SendError,
    StopBlastError,
    StopChannelError,
    TransientError,
    UncertainError,
)
from shared.sending.provider import Receipt

DEFERRED = frozenset({4, 613, 80007, 130429, 131056})
TRANSIENT = frozenset({1, 2, 131000, 131016, 131057, 133004})
OPTED_OUT = 131050
PERMANENT_RECIPIENT = frozenset({131021, 131026, 131030, 131047, 131049, 130472, 133010, OPTED_OUT})
PERMANENT_DATA = frozenset({100, 131008, 131009, 132000, 132001, 132005, 132007, 132012})
STOP = frozenset({0, 3, 10, 190, 368, 131005, 131031, 131042, 131048}) | frozenset(range(200, 300))
STOP_BLAST = frozenset({132015, 132016})
_KINDS: dict[int, type[SendError]] = {
    **dict.fromkeys(TRANSIENT, TransientError),
    **dict.fromkeys(PERMANENT_RECIPIENT | PERMANENT_DATA, PermanentError),
    **dict.fromkeys(STOP, StopChannelError),
    **dict.fromkeys(STOP_BLAST, StopBlastError),
}
_LONGEST_WAIT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that arrived whole; `now_s` is when (seconds since the epoch), for a Retry-After with a date."""

    status: int
    raw: bytes
    retry_after: str = ""
    now_s: float = 0.0

    @property
    def text(self) -> str:
        """The provider's own words."""
        return self.raw.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class ApiFault:
    """The error object of an answer; `code` is None where it names none."""

    code: int | None
    words: str


def read_answer(answer: Answer) -> Receipt:
    """Return the receipt of an accepted message; raises the SendError of any other answer."""
    body = _json(answer.raw)
    fault = _fault(body)
    if fault is not None or not 200 <= answer.status < 300:
        raise refusal(answer, fault)
    message_id = _message_id(body)
    if not message_id:
        raise UncertainError("accepted without a message id", code=f"http {answer.status}", reply=answer.text)
    return Receipt(message_id, answer.text)


def refusal(answer: Answer, fault: ApiFault | None) -> SendError:
    """Return what an answer other than acceptance means."""
    if fault is not None and fault.code is not None:
        known = _by_code(fault.code, f"WhatsApp error {fault.code}: {fault.words}", answer)
        if known is not None:
            return known
    return _by_status(answer, fault)


def is_server_failure(answer: Answer) -> bool:
    """Say whether the server failed rather than answered: 5xx without an error code of WhatsApp's."""
    if answer.status < 500:
        return False
    fault = _fault(_json(answer.raw))
    return fault is None or fault.code is None


def _by_code(code: int, message: str, answer: Answer) -> SendError | None:
    details: dict[str, str] = {"code": str(code), "reply": answer.text}
    if code in DEFERRED:
        return DeferredError(message, wait_s=retry_after_s(answer), **details)
    if code == OPTED_OUT:
        return PermanentError(message, suppress=f"{OPTED_OUT_REASON}: {code}", **details)
    kind = _KINDS.get(code)
    return kind(message, **details) if kind else None


def _by_status(answer: Answer, fault: ApiFault | None) -> SendError:
    code = f"http {answer.status}" if fault is None or fault.code is None else str(fault.code)
    message = f"HTTP {answer.status}" + (f": {fault.words}" if fault and fault.words else "")
    if answer.status == 429:
        return DeferredError(message, code=code, reply=answer.text, wait_s=retry_after_s(answer))
    if answer.status in {401, 403}:
        return StopChannelError(message, code=code, reply=answer.text)
    return TransientError(message, code=code, reply=answer.text)


def retry_after_s(answer: Answer) -> float | None:
    """Return how long Retry-After asks to wait (seconds or an HTTP date, RFC 9110, 10.2.3), None if it does not.

    No wait, or a date that has passed, is none asked for: a refusal that says "at once" would be met without end.
    """
    text = answer.retry_after.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), _LONGEST_WAIT_S) or None
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment.timestamp() - answer.now_s, 0.0), _LONGEST_WAIT_S) or None


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _fault(body: dict[str, Any]) -> ApiFault | None:
    """Return the error of a body; Qiscus's own and the older API's list of `errors` are read as well."""
    found = body.get("error") or body.get("errors")
    if isinstance(found, list):
        found = found[0] if found else None
    if not found:
        return None
    if not isinstance(found, dict):
        return ApiFault(None, str(found))
    details = found.get("error_data")
    more = details.get("details") if isinstance(details, dict) else None
    words = str(found.get("message") or found.get("title") or "")
    return ApiFault(_code(found.get("code")), f"{words} ({more})" if more and more not in words else words)


def _code(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else None


def _message_id(body: dict[str, Any]) -> str:
    """Return the id from `messages[0].id`, then `data.id`, then `id`; "" where there is none."""
    messages, data = body.get("messages"), body.get("data")
    places = [
        messages[0].get("id") if isinstance(messages, list) and messages and isinstance(messages[0], dict) else None,
        data.get("id") if isinstance(data, dict) else None,
        body.get("id"),
    ]
    written = (str(place).strip() for place in places if isinstance(place, str | int) and not isinstance(place, bool))
    return next(filter(None, written), "")
