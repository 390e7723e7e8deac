"""Simulated outcomes: most messages are accepted; some addresses fail in the ways that real ones do.

| local part, up to `+` | answer |
| --- | --- |
| `bounce` | 550 5.1.1 to RCPT TO |
| `greylist` | 450 4.7.1 once, then accepted |
| `flaky` | 451 4.3.0 on the first two attempts, then accepted |
| `slow` | accepted, answered after 10 s |
| `drop` | the connection is closed after the message, unanswered and not accepted |

Mail to `late-bounce` and `complaint` is accepted, and something comes back (`returned_mail`). A phone number that ends
in a WhatsApp error code (`…131026`) always gets that error: as the answer, or by webhook if it is a code that Meta
reports later (`statuses`). Attempts are counted per address and, if the message names one, per job.
"""

from __future__ import annotations

from collections import OrderedDict

from shared.smtp.session import Verdict

SLOW_S = 10.0
_MOST_REMEMBERED = 100_000

ACCEPT = Verdict()
_REFUSALS = {
    "greylist": (1, "450 4.7.1 try again in 2 seconds"),
    "flaky": (2, "451 4.3.0 temporary failure, this happens on the first two attempts"),
}

# code → (HTTP status, Meta's text), as the Cloud API documents them
WHATSAPP_ERRORS: dict[int, tuple[int, str]] = {
    0: (401, "We were unable to authenticate the app user"),
    1: (400, "API unknown"),
    2: (503, "API service"),
    3: (500, "API method"),
    4: (400, "API too many calls"),
    10: (403, "Permission denied"),
    33: (400, "Parameter value is not valid: the business phone number has been deleted"),
    100: (400, "Invalid parameter"),
    190: (401, "Access token has expired"),
    200: (403, "API permission"),
    299: (403, "API permission"),
    368: (403, "Temporarily blocked for policies violations"),
    613: (400, "Calls to this API have exceeded the rate limit"),
    80007: (400, "Rate limit issues"),
    130429: (400, "Rate limit hit"),
    130472: (400, "User's number is part of an experiment"),
    130497: (400, "Business account is restricted from messaging users in this country"),
    131000: (500, "Something went wrong"),
    131005: (403, "Access denied"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131016: (500, "Service unavailable"),
    131021: (400, "Recipient cannot be sender"),
    131026: (400, "Message undeliverable"),
    131030: (400, "Recipient phone number not in allowed list"),
    131031: (403, "Account has been locked"),
    131037: (400, "Display name of the phone number is not approved"),
    131042: (400, "Business eligibility payment issue"),
    131044: (400, "Business eligibility payment issue"),
    131045: (500, "Incorrect certificate"),
    131047: (400, "Re-engagement message"),
    131048: (400, "Spam rate limit hit"),
    131049: (400, "This message was not delivered to maintain healthy ecosystem engagement"),
    131050: (400, "Unable to deliver the message: the recipient has chosen to stop receiving marketing messages"),
    131051: (400, "Unsupported message type"),
    131052: (400, "Media download error"),
    131053: (400, "Media upload error"),
    131056: (400, "(Business Account, Consumer Account) pair rate limit hit"),
    131057: (500, "Account in maintenance mode"),
    131062: (400, "Business-scoped user id recipients are not supported"),
    131063: (400, "Marketing templates are disabled for Cloud API"),
    131064: (400, "Messaging limit reached due to template classification violations"),
    132000: (400, "Template parameter count mismatch"),
    132001: (404, "Template does not exist"),
    132005: (400, "Template hydrated text too long"),
    132007: (400, "Template format character policy violated"),
    132008: (400, "Template parameter value is not valid"),
    132012: (400, "Template parameter format mismatch"),
    132015: (400, "Template is paused"),
    132016: (400, "Template is disabled"),
    132068: (400, "Flow is blocked"),
    132069: (400, "Flow is throttled"),
    133004: (503, "Server temporarily unavailable"),
    133010: (400, "Phone number not registered"),
    133016: (400, "Account register deregister rate limit exceeded"),
    135000: (400, "Generic user error"),
    137000: (400, "Recipient identity key hash mismatch"),
    139000: (400, "Flow is blocked by integrity"),
}


def simulated_part(address: str) -> str:
    """Return the part of an email address that may name a simulation: the local part up to `+`, in lower case."""
    return address.rpartition("@")[0].partition("+")[0].strip('"').lower()


def refusal_of_recipient(address: str) -> str:
    """Return the refusal of an address at RCPT TO, "" if it is not refused there."""
    return "550 5.1.1 no such user here" if simulated_part(address) == "bounce" else ""


def whatsapp_error_of(phone: str) -> int:
    """Return the error code that a phone number ends in, or 0."""
    code = int(phone[-6:]) if phone[-6:].isdecimal() and phone[-6:].isascii() else 0
    return code if code >= 100_000 and code in WHATSAPP_ERRORS else 0


class MailOutcomes:
    """Decides the outcome of whole mails; counts the refusals of each until it is accepted.

    `slow_s` is how long `slow` addresses take to be answered, `latency_s` all others.
    """

    def __init__(self, slow_s: float = SLOW_S, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self._slow_s = slow_s
        self._refused: OrderedDict[tuple[str, str], int] = OrderedDict()

    def verdict(self, recipients: list[str], job_id: str) -> Verdict:
        """Return the outcome of a mail; the first recipient with a simulation decides."""
        for address in recipients:
            verdict = self._of(address, job_id)
            if verdict is not ACCEPT:
                return verdict
        return ACCEPT

    def _of(self, address: str, job_id: str) -> Verdict:
        part = simulated_part(address)
        if part == "slow":
            return Verdict(delay_s=self._slow_s)
        if part == "drop":
            return Verdict(accepted=False, answered=False, closed=True)
        times, reply = _REFUSALS.get(part, (0, ""))
        key = (address, job_id)
        refused = self._refused.get(key, 0)
        if refused >= times:
            self._refused.pop(key, None)
            return ACCEPT
        self._refused[key] = refused + 1
        if len(self._refused) > _MOST_REMEMBERED:
            self._refused.popitem(last=False)
        return Verdict(reply=reply, accepted=False)
