"""Checks whether Qiscus is reachable and accepts our credentials, and which setting is wrong if not.

It posts an empty message. A refusal in the form of WhatsApp's errors proves that the credentials were accepted. A
response that any other API could give counts only if a wrong secret gets a different one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from services.whatsapp_sender.codes import KNOWN
from services.whatsapp_sender.replies import (
    LEAST_DISTINCT,
    NOT_FOUND,
    STOP_STATUSES,
    Answer,
    Reading,
    is_wrong_place,
    read,
    refusal,
)
from services.whatsapp_sender.settings import QiscusSettings
from shared.errors import SendError, StopChannelError, UnavailableError
from shared.sending.provider import ProviderStatus

URL = "KURIR_QISCUS_URL"
APP_CODE = "KURIR_QISCUS_APP_CODE"
CHANNEL_ID = "KURIR_QISCUS_CHANNEL_ID"
SECRET_KEY = "KURIR_QISCUS_SECRET_KEY"  # noqa: S105 -- the setting's name
_MOST_WORDS = 300
# words in the provider's response, and the setting that they concern
_NAMED = (
    (CHANNEL_ID, re.compile(r"channel|phone number|object with id", re.IGNORECASE)),
    (SECRET_KEY, re.compile(r"secret|token", re.IGNORECASE)),
    (APP_CODE, re.compile(r"\bapp\b|app[ _-]?(id|code)|application", re.IGNORECASE)),
)
# Meta's codes for refused credentials; the other codes of the stop class concern the account
_CREDENTIALS = frozenset({0, 101, 102, 104, 190})

Post = Callable[[QiscusSettings], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response proves: `taken` is None if any server could have sent it; `check` names settings."""

    taken: bool | None
    problem: str = ""
    check: tuple[str, ...] = ()


async def check_credentials(settings: QiscusSettings, detail: Mapping[str, object], post: Post) -> ProviderStatus:
    """Return whether Qiscus accepts us; `post` sends the empty message with the given settings."""
    try:
        answer = await post(settings)
    except SendError as error:
        shown = {**detail, "error": f"{error.message}; check {URL}", "check": [URL]}
        return ProviderStatus(reachable=False, authenticated=False, detail=shown)
    verdict = judge(answer)
    if verdict.taken is None:
        verdict = await _compare(settings, post, verdict)
    shown = {**detail, "httpStatus": answer.status}
    if not verdict.taken:
        shown |= {"error": verdict.problem, "check": list(verdict.check), "answer": answer.text[:_MOST_WORDS]}
    return ProviderStatus(reachable=True, authenticated=bool(verdict.taken), detail=shown)


async def _compare(settings: QiscusSettings, post: Post, verdict: Verdict) -> Verdict:
    """Post again with a wrong secret: a server that does not refuse it ignores the secret."""
    try:
        answer = await post(replace(settings, secret_key=secrets.token_hex(16)))
    except SendError:
        return replace(verdict, taken=False)
    reading = read(answer)
    refused = reading.status in STOP_STATUSES or reading.code in _CREDENTIALS
    return Verdict(taken=True) if refused else replace(verdict, taken=False)


def judge(answer: Answer) -> Verdict:
    """Return what the response to an empty message proves."""
    reading = read(answer)
    error = refusal(answer, reading)
    if reading.status >= 500:
        return Verdict(False, f"Qiscus, or a proxy in front of it, fails: {error.message}")
    if isinstance(error, UnavailableError):
        return Verdict(False, error.message, (URL,))
    if not reading.body:
        return _page(answer)
    if not reading.is_refusal:
        return Verdict(False, f"not the Qiscus API: it did not refuse an empty message; check {URL}", (URL,))
    return _refused(error, reading) if isinstance(error, StopChannelError) else _read(error, reading)


def _page(answer: Answer) -> Verdict:
    """Return the verdict on a response without JSON: a page of a proxy, a captive portal or another server."""
    check = (URL, APP_CODE, SECRET_KEY) if answer.status in STOP_STATUSES else (URL,)
    who = "a page of another server, a proxy, a firewall or a captive portal"
    return Verdict(False, f"not the Qiscus API: HTTP {answer.status} with {who}; check {_listed(check)}", check)


def _read(error: SendError, reading: Reading) -> Verdict:
    """Return the verdict on a refusal of the message itself, by WhatsApp or perhaps by another API."""
    if _is_whatsapps(reading):
        return Verdict(taken=True)
    return Verdict(None, f"perhaps not the Qiscus API: it accepts any secret; check {URL}: {error.message}", (URL,))


def _refused(error: SendError, reading: Reading) -> Verdict:
    fault, status = reading.fault, reading.status
    words = fault.words if fault else ""
    named = tuple(setting for setting, pattern in _NAMED if pattern.search(words))
    if status in NOT_FOUND or (fault is not None and is_wrong_place(fault, status)):
        found = tuple(one for one in named if one != SECRET_KEY)
        check = found or ((APP_CODE, CHANNEL_ID) if fault and fault.code else (URL, APP_CODE, CHANNEL_ID))
        return Verdict(
            False, f"Qiscus does not know this app or channel; check {_listed(check)}: {error.message}", check
        )
    if reading.code in _CREDENTIALS or (reading.code is None and status in {401, 403}):
        check = tuple(one for one in named if one != CHANNEL_ID) or (APP_CODE, SECRET_KEY)
        return Verdict(False, f"Qiscus refuses our credentials; check {_listed(check)}: {error.message}", check)
    return Verdict(False, f"the account cannot send: {error.message}")


def _listed(settings: tuple[str, ...]) -> str:
    return ", ".join(settings)


def _is_whatsapps(reading: Reading) -> bool:
    """Return whether a refusal can only be WhatsApp's: Meta's form, or a code that no other API uses."""
    fault = reading.fault
    if fault is None or fault.code is None:
        return False
    return fault.is_metas or (fault.code in KNOWN and fault.code >= LEAST_DISTINCT)
