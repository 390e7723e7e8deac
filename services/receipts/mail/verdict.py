"""Judges a failure that a bounce mail reports: its code, its words, and whether it is hard."""

from __future__ import annotations

import re

from services.receipts.mail.delivery_status import Outcome
from services.receipts.verdicts import severity
from shared.foreign_text import legible
from shared.receipts import LONGEST_RECEIPT_WORDS, Severity
from shared.smtp.replies import NO_SUCH_ADDRESS, Reply

_MOST_SEARCHED = 4000
# a reply within other words: `host mx said: 550 5.1.1 …`, `returned '550 …`, `<<< 550 …`, `(reason: 550 …)`
_BASIC = re.compile(
    r"(?:^|[:'\"(>]\s{0,3}|(?:said|says|error|code|status|response)\W{1,3})([45]\d\d)(?=[ #,-]|$)", re.MULTILINE
)
_WITH_ENHANCED = re.compile(r"(?<![\w.])([45]\d\d)[ -]#?[45]\.\d{1,3}\.\d{1,3}\b")
_REPEATED = re.compile(r"(?<![\w.])[45]\d\d-(?:[245]\.\d{1,3}\.\d{1,3} )?")
_SPACES = re.compile(r"\s+")


def read_reply(words: str) -> Reply:
    """Return the SMTP reply within the words of a notification; its code is 0 if they have none."""
    text = words[:_MOST_SEARCHED].strip()
    found = _WITH_ENHANCED.search(text) or _BASIC.search(text)
    if found is None:
        return Reply(0, text)
    rest = _REPEATED.sub(" ", text[found.end(1) :]).lstrip(" -")
    return Reply(int(found[1]), rest)


def judge(outcome: Outcome, *, after_data: bool = False) -> tuple[str, Severity]:
    """Return the code of a failure and whether it is hard.

    The code is the one that says most: the enhanced one of the reply, the status if it is specific, the basic one.
    Servers that get a reply without an enhanced code report a status of x.0.0, which says nothing, or derive one from
    the basic code, which adds nothing. `after_data`: the server refused the message, not the recipient; then
    words alone do not make it hard (docs/decisions/0021), as in a reply to us.
    """
    reply = read_reply(outcome.words)
    enhanced = reply.enhanced or (_bare_code(reply.text) if not reply.code else "")
    status = "" if _is_vague(outcome.status) else outcome.status
    code = (
        (enhanced if not _is_vague(enhanced) else "") or status or str(reply.code or "") or enhanced or outcome.status
    )
    if outcome.status.startswith("4"):
        # the server gave up trying, which says nothing about the address
        return code, "soft"
    is_derived = bool(reply.code) and not enhanced and status in NO_SUCH_ADDRESS
    by_words = is_derived or "." not in code or _is_vague(code)
    if by_words and after_data:
        return code, "soft"
    return code, severity(str(reply.code) if is_derived else code, outcome.words, outcome.address)


def words_of(outcome: Outcome) -> str:
    """Return the words as a receipt has them: one line of valid Unicode."""
    return legible(_SPACES.sub(" ", outcome.words[:_MOST_SEARCHED]).strip(), LONGEST_RECEIPT_WORDS)


def _is_vague(code: str) -> bool:
    return not code or (code.endswith(".0") and code[1:3] != ".7")


def _bare_code(text: str) -> str:
    """Return the enhanced code in words that have no basic one."""
    return Reply(550, text).enhanced or Reply(450, text).enhanced
