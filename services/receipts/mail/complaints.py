"""Reads complaints: feedback reports (RFC 5965), and Microsoft's older form, which has no report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from services.receipts.mail.mime import Headers
from services.receipts.mail.received import ReceivedMail

# reports that say nothing against the mail: RFC 6430, RFC 6591, and reports on authentication (DMARC)
_NO_COMPLAINTS = frozenset({"not-spam", "auth-failure", "dmarc", "virus"})
_OPT_OUTS = frozenset({"opt-out", "opt-out-list", "unsubscribe"})
# Microsoft's Junk Mail Reporting Program, and providers that forward the mail with no report
_JMRP_FIELDS = ("x-hmxmroriginalrecipient", "x-ms-exchange-jmrp", "x-jmrp-report")
_JMRP_SENDERS = re.compile(r"\bstaff@(?:hotmail\.com|outlook\.com|microsoft\.com)\b", re.IGNORECASE)
_JMRP_SUBJECT = "complaint about message from"


@dataclass(frozen=True, slots=True)
class Complaint:
    """A complaint, its address and its words; `kind` is `complained` or `opted_out`, or "" for another report."""

    kind: Literal["", "complained", "opted_out"]
    address: str = ""
    words: str = ""


def read_complaint(mail: ReceivedMail) -> Complaint | None:
    """Return the complaint of a mail, None if it is no feedback report."""
    if mail.feedback is not None:
        return _reported(Headers(mail.feedback.strip(b"\r\n").replace(b"\r\n", b"\n")))
    found = next((mail.headers.get(name) for name in _JMRP_FIELDS if name in mail.headers), None)
    by_microsoft = mail.subject.startswith(_JMRP_SUBJECT) and _JMRP_SENDERS.search(mail.headers.get("from")[:1000])
    if found is None and not by_microsoft:
        return None
    return Complaint("complained", (found or "").strip().strip("<>"), "abuse")


def _reported(report: Headers) -> Complaint:
    kind = report.get("feedback-type").strip().lower()
    words = " ".join(filter(None, (kind or "abuse", report.get("user-agent").strip()[:200])))
    address = (report.get("original-rcpt-to") or report.get("removal-recipient")).strip().strip("<>")[:320]
    if kind in _NO_COMPLAINTS:
        return Complaint("", address, words)
    return Complaint("opted_out" if kind in _OPT_OUTS else "complained", address, words)
