"""Checks whether the provider is reachable and accepts our credentials, and which setting is wrong if not.

It posts an empty message. A refusal in the form of WhatsApp's errors proves that the credentials were accepted. A
response that any other API could give counts only if a wrong secret gets a different one.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from services.whatsapp_sender.codes import KNOWN, UNKNOWN_PATH
from services.whatsapp_sender.driver import Driver
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
from shared.errors import SendError, StopChannelError, UnavailableError
from shared.sending.provider import ProviderStatus

_MOST_WORDS = 300
# Meta's codes for refused credentials; the other codes of the stop class concern the account
_CREDENTIALS = frozenset({0, 101, 102, 104, 190})

Post = Callable[[Driver], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response proves: `taken` is None if any server could have sent it; `check` names settings."""

    taken: bool | None
    problem: str = ""
    check: tuple[str, ...] = ()


async def check_credentials(driver: Driver, detail: Mapping[str, object], post: Post) -> ProviderStatus:
    """Return whether the provider accepts us; `post` sends the empty message through the given driver."""
    url = driver.names.url
    try:
        answer = await post(driver)
    except SendError as error:
        shown = {**detail, "error": f"{error.message}; check {url}", "check": [url]}
        return ProviderStatus(reachable=False, authenticated=False, detail=shown)
    verdict = judge(answer, driver)
    if verdict.taken is None:
        verdict = await _compare(driver, post, verdict)
    shown = {**detail, "httpStatus": answer.status}
    if not verdict.taken:
        shown |= {"error": verdict.problem, "check": list(verdict.check), "answer": answer.text[:_MOST_WORDS]}
    return ProviderStatus(reachable=True, authenticated=bool(verdict.taken), detail=shown)


async def _compare(driver: Driver, post: Post, verdict: Verdict) -> Verdict:
    """Post again with a wrong secret: a server that does not refuse it ignores the secret."""
    try:
        answer = await post(driver.with_secret(secrets.token_hex(16)))
    except SendError:
        return replace(verdict, taken=False)
    reading = read(answer)
    refused = reading.status in STOP_STATUSES or reading.code in _CREDENTIALS
    return Verdict(taken=True) if refused else replace(verdict, taken=False)


def judge(answer: Answer, driver: Driver) -> Verdict:
    """Return what the response to an empty message proves."""
    reading = read(answer)
    error = refusal(answer, reading)
    name, url = driver.name, driver.names.url
    if reading.status >= 500:
        return Verdict(False, f"{name}, or a proxy in front of it, fails: {error.message}")
    if isinstance(error, UnavailableError):
        return Verdict(False, error.message, (url,))
    if not reading.body:
        return _page(answer, driver)
    if not reading.is_refusal:
        return Verdict(False, f"not {name}'s API: it did not refuse an empty message; check {url}", (url,))
    return _refused(error, reading, driver) if isinstance(error, StopChannelError) else _read(error, reading, driver)


def _page(answer: Answer, driver: Driver) -> Verdict:
    """Return the verdict on a response without JSON: a page of a proxy, a captive portal or another server."""
    url, credentials = driver.names.url, driver.names.credentials
    check = (url, *credentials) if answer.status in STOP_STATUSES else (url,)
    who = "a page of another server, a proxy, a firewall or a captive portal"
    return Verdict(False, f"not {driver.name}'s API: HTTP {answer.status} with {who}; check {_listed(check)}", check)


def _read(error: SendError, reading: Reading, driver: Driver) -> Verdict:
    """Return the verdict on a refusal of the message itself, by WhatsApp or perhaps by another API."""
    if _is_whatsapps(reading):
        return Verdict(taken=True)
    url = driver.names.url
    problem = f"perhaps not {driver.name}'s API: it accepts any secret; check {url}: {error.message}"
    return Verdict(None, problem, (url,))


def _refused(error: SendError, reading: Reading, driver: Driver) -> Verdict:
    fault, status, names = reading.fault, reading.status, driver.names
    words = fault.words if fault else ""
    named = tuple(setting for setting, pattern in names.mentioned if pattern.search(words))
    if reading.code == UNKNOWN_PATH:
        return Verdict(False, f"{driver.name} does not know this URL; check {names.url}: {error.message}", (names.url,))
    if status in NOT_FOUND or (fault is not None and is_wrong_place(fault, status)):
        found = tuple(one for one in named if one != names.secret)
        check = found or (names.place if fault and fault.code else names.location)
        problem = f"{driver.name} does not know this {names.place_words}"
    elif reading.code in _CREDENTIALS or (reading.code is None and status in {401, 403}):
        check = tuple(one for one in named if one in names.credentials) or names.credentials
        problem = f"{driver.name} refuses our credentials"
    else:
        return Verdict(False, f"the account cannot send: {error.message}")
    return Verdict(False, f"{problem}; check {_listed(check)}: {error.message}", check)


def _listed(settings: tuple[str, ...]) -> str:
    return ", ".join(settings)


def _is_whatsapps(reading: Reading) -> bool:
    """Return whether a refusal can only be WhatsApp's: Meta's form, or a code that no other API uses."""
    fault = reading.fault
    if fault is None or fault.code is None:
        return False
    return fault.is_metas or (fault.code in KNOWN and fault.code >= LEAST_DISTINCT)
