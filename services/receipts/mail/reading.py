"""Reads one mail that came to a return path or a mailbox for bounces, and returns its receipts.

A delivery report or a bounce in plain text gives `bounced` or `delivered`, a feedback report `complained`. A mail that
names none of our jobs is a problem, and the entry is kept whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from email.utils import mktime_tz, parsedate_tz

import msgspec

from services.receipts.mail.automatic import is_automatic, is_automatic_by_subject, quotes_our_subject
from services.receipts.mail.complaints import Complaint, read_complaint
from services.receipts.mail.delivery_status import Outcome, read_status
from services.receipts.mail.identity import Named, find_job
from services.receipts.mail.intake import SOURCE
from services.receipts.mail.mime import Headers
from services.receipts.mail.plain_bounces import (
    address_in,
    has_null_sender,
    is_from_daemon,
    is_surely_from_daemon,
    read_listed,
    read_marked,
    read_unmarked,
    subject_says_failed,
    words_about,
)
from services.receipts.mail.received import ReceivedMail, take_apart
from services.receipts.mail.verdict import judge, words_of
from services.receipts.reading import Reading
from shared.addresses import identity
from shared.foreign_text import legible
from shared.receipts import LONGEST_RECEIPT_WORDS, Receipt

NO_BOUNCE = "neither a delivery report, a complaint nor an automatic reply"
NOT_OURS = "it names none of our messages"
NO_ACTION = "a delivery report whose action is unknown"
_OLDEST_S, _NEWEST_S = 60 * 86400.0, 86400.0
_IGNORED = Reading(ignored=1)
_READ = 16 * 1024
# Postfix, Exim and Sendmail say so where a server refused the message after it had taken the recipient
_AFTER_DATA = ("in reply to end of data", "after end of data", ">>> . ")


def read_mail(raw: bytes, taken_at: float, secret: str) -> Reading:
    """Return what a mail says; never raises, and takes time in proportion to the mail's size.

    `taken_at` is when the mail came in (Unix seconds); `secret` is KURIR_SECRET, which signs the return paths.
    """
    mail = _passed_on(take_apart(raw))
    complaint = read_complaint(mail)
    if complaint is not None:
        return _complained(mail, complaint, taken_at, secret)
    outcomes = None if mail.disposition is not None else _outcomes(mail)
    if outcomes is None:
        return _IGNORED
    if not outcomes:
        return Reading(problem=NO_BOUNCE)
    return _reported(mail, outcomes, taken_at, secret)


def _passed_on(mail: ReceivedMail) -> ReceivedMail:
    """Return the report that a mail has as its attachment, as rules of mailboxes forward one; else the mail itself."""
    if not mail.attached or mail.has_report:
        return mail
    attached = take_apart(mail.attached)
    return attached if attached.has_report else mail


def _reported(mail: ReceivedMail, outcomes: Sequence[Outcome], taken_at: float, secret: str) -> Reading:
    """Return the receipts of the outcomes that settle something; a delay is nothing yet."""
    telling = [one for one in outcomes if one.action in {"failed", "delivered"}]
    unknown = [one for one in outcomes if not one.action]
    problem, ignored = NO_ACTION if unknown else "", len(outcomes) - len(telling) - len(unknown)
    if not telling:
        return Reading(problem=problem, ignored=ignored)
    named = find_job(mail, secret)
    if named is None:
        return Reading(problem=NOT_OURS)
    telling = [_with_words(one, mail) for one in telling]
    text = " ".join(mail.text[:_READ].lower().split())
    after_data = any(words in text for words in _AFTER_DATA)
    receipts = [_receipt(one, named, _time(mail, one.date, taken_at), after_data=after_data) for one in telling]
    # of several receipts of one moment the log keeps the first one of each kind
    judged = sorted(_judged(mail, telling, receipts), key=lambda one: one.severity != "hard")
    return Reading(_dated(judged, taken_at), problem=problem, ignored=ignored)


def _outcomes(mail: ReceivedMail) -> list[Outcome] | None:
    """Return the outcomes that a mail reports, none if it reports nothing known, None for an automatic reply.

    What is marked as a bounce is one, even if its server calls it automatic (RFC 3834, 3.1.7, which many ignore).
    """
    from_daemon = is_from_daemon(mail)
    found = read_status(_report(mail, from_daemon=from_daemon)) or read_listed(mail)
    if found:
        return found
    automatic, answers = is_automatic(mail), quotes_our_subject(mail)
    if is_surely_from_daemon(mail):
        # mail servers call their bounces automatic too; one in unknown words is kept for a person to see
        automatic, answers = is_automatic_by_subject(mail), False
    elif automatic and from_daemon and subject_says_failed(mail) and not answers:
        automatic = False
    if automatic:
        return None
    found = read_marked(mail)
    return found or (read_unmarked(mail) if (from_daemon or has_null_sender(mail)) and not answers else [])


def _with_words(outcome: Outcome, mail: ReceivedMail) -> Outcome:
    """Return the outcome with the words of the text that people read, where its report has none."""
    if outcome.words or outcome.action != "failed":
        return outcome
    return replace(outcome, words=words_about(mail.text[:_READ], outcome.address))


def _report(mail: ReceivedMail, *, from_daemon: bool) -> bytes:
    """Return the report of a mail; one within its text where a server broke the MIME structure."""
    if mail.status is not None:
        return mail.status
    whole = f"{mail.text}\n\n{mail.quoted}"
    return whole.encode("utf-8", "replace") if from_daemon and "\nFinal-Recipient:" in whole else b""


def _receipt(outcome: Outcome, named: Named, at: float, *, after_data: bool) -> Receipt:
    if outcome.action == "delivered":
        return Receipt(
            "delivered", SOURCE, at, named.job_id, named.message_id, address=_legible(outcome.address),
            code=outcome.status, words=words_of(outcome), trusted=named.trusted,
        )  # fmt: skip
    code, verdict = judge(outcome, after_data=after_data)
    return Receipt(
        "bounced", SOURCE, at, named.job_id, named.message_id, address=_legible(outcome.address),
        severity=verdict, code=code, words=words_of(outcome), trusted=named.trusted,
    )  # fmt: skip


def _judged(mail: ReceivedMail, outcomes: Sequence[Outcome], receipts: Sequence[Receipt]) -> list[Receipt]:
    """Return the receipts, the hard ones made soft that another address than the message's caused.

    Each of our messages has one recipient. If a report names another, the recipient is a list or an alias, and one bad
    member does not condemn it.
    """
    ours = _recipient(mail)
    is_alone = len({identity(one.address) for one in outcomes}) < 2
    return [
        one
        if one.severity != "hard" or _concerns(outcome, ours, is_alone=is_alone)
        else msgspec.structs.replace(one, severity="soft")
        for one, outcome in zip(receipts, outcomes, strict=True)
    ]


def _recipient(mail: ReceivedMail) -> str:
    """Return the recipient of the message that a mail returns, "" if it does not say."""
    for headers in (mail.returned, Headers(mail.quoted.encode("utf-8", "replace"))):
        found = address_in(headers.get("to")[:1000]) if headers is not None else ""
        if found:
            return found
    return ""


def _concerns(outcome: Outcome, ours: str, *, is_alone: bool) -> bool:
    """Return whether an outcome is about our recipient, by its local part: servers write other domains, or none."""
    ours = ours or (outcome.original if is_alone else "")
    if not ours or not outcome.address:
        return is_alone
    return _local_part(ours) == _local_part(outcome.address)


def _local_part(address: str) -> str:
    return identity(address).partition("@")[0].partition("+")[0].strip('"')


def _complained(mail: ReceivedMail, complaint: Complaint, taken_at: float, secret: str) -> Reading:
    if not complaint.kind:
        return _IGNORED
    named = find_job(mail, secret)
    if named is None:
        return Reading(problem=NOT_OURS)
    receipt = Receipt(
        complaint.kind, SOURCE, _time(mail, "", taken_at), named.job_id, named.message_id,
        address=_legible(complaint.address), words=legible(complaint.words, LONGEST_RECEIPT_WORDS),
        trusted=named.trusted,
    )  # fmt: skip
    return Reading(_dated([receipt], taken_at))


def _dated(receipts: Sequence[Receipt], taken_at: float) -> list[Receipt]:
    """Return the receipts, those marked that have no time but that of this reading."""
    return [one if one.at != taken_at else msgspec.structs.replace(one, timed=False) for one in receipts]


def _time(mail: ReceivedMail, last_attempt: str, taken_at: float) -> float:
    """Return when it happened: the last attempt, else the mail's Date, else when a server received the mail.

    The last resort is when it was taken, which differs between two readings of one mail.
    """
    received = mail.headers.get("received").rpartition(";")[2]
    for text in (last_attempt, mail.headers.get("date"), received.strip()):
        try:
            parsed = parsedate_tz(text[:100])
            at = float(mktime_tz(parsed)) if parsed else 0.0
        except (ValueError, OverflowError, TypeError, IndexError):
            continue
        if taken_at - _OLDEST_S <= at <= taken_at + _NEWEST_S:
            return at
    return taken_at


def _legible(address: str) -> str:
    return legible(address, 320)
