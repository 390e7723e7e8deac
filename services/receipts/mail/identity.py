"""Finds the job that a received mail is about.

A return path's token proves that the mail's author had the message, or knew its envelope: such a mail may suppress the
recipient. A Message-ID can be guessed: what only that identifies is recorded and suppresses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.receipts.mail.mime import MOST_TEXT_BYTES, Headers, fields_of
from services.receipts.mail.received import ReceivedMail
from shared.jobs import parse_job_id
from shared.receipts import JOB_HEADER, RETURN_PREFIX, job_of_message_id, read_return_token

# where mail servers write the recipient of the envelope, the surest first
_RECIPIENTS = (
    "delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "original-recipient", "x-apparently-to", "to",
    "x-delivered-to", "x-rcpt-to", "resent-to",
)  # fmt: skip
_SENDERS = ("return-path", "original-mail-from", "x-original-mail-from", "x-postfix-sender", "errors-to", "sender")
# base32 of a job id and its HMAC, in either case
_TOKEN = re.compile(rf"(?<![a-z0-9]){re.escape(RETURN_PREFIX)}([a-z2-7]{{16,62}})(?=@)", re.IGNORECASE)
_MOST_TOKENS = 20
_MOST_IDS = 100


@dataclass(frozen=True, slots=True)
class Named:
    """The job that a mail is about: its id, our Message-ID where only that is known, and whether a token proves it."""

    job_id: str = ""
    message_id: str = ""
    trusted: bool = False


def find_job(mail: ReceivedMail, secret: str) -> Named | None:
    """Return the job that a mail is about, None if it names none of ours."""
    quoted = Headers(mail.quoted.encode("utf-8", "replace")[:MOST_TEXT_BYTES])
    report = Headers((mail.status or b"") + b"\n" + (mail.feedback or b""))
    for text in _places(mail, report, quoted):
        for job_id in _jobs_of_tokens(text, secret):
            return Named(job_id, trusted=True)
    for message_id in _message_ids(mail, report, quoted):
        if job_of_message_id(message_id):
            return Named(message_id=message_id)
    for headers in (mail.returned, quoted):
        job_id = headers.get(JOB_HEADER) if headers is not None else ""
        if job_id and parse_job_id(job_id):
            return Named(job_id)
    return None


def _places(mail: ReceivedMail, report: Headers, quoted: Headers) -> Iterator[str]:
    """Yield the texts that may have a return path, those that name the envelope of this mail itself first."""
    yield from mail.headers.all(*_RECIPIENTS)
    yield from report.all(*_SENDERS)
    for headers in (mail.returned, quoted):
        if headers is not None:
            yield from headers.all(*_SENDERS)


def _jobs_of_tokens(text: str, secret: str) -> Iterator[str]:
    """Yield the jobs of the valid tokens in a text."""
    if not secret:
        return
    for number, found in enumerate(_TOKEN.finditer(text)):
        if number >= _MOST_TOKENS:
            return
        job_id = read_return_token(found[1], secret)
        if job_id:
            yield job_id


def _message_ids(mail: ReceivedMail, report: Headers, quoted: Headers) -> Iterable[str]:
    """Yield the Message-IDs of the returned mail, then those that this mail answers, without angle brackets."""
    values = []
    for headers in (mail.returned, quoted, report):
        if headers is not None:
            values += headers.all("message-id", "x-message-id", "original-message-id")
    # a quoted mail is not always where it is expected: any line of the text that has the form of this field
    values += [value for name, value in fields_of(mail.text.encode("utf-8", "replace")) if name == "message-id"]
    values += mail.headers.all("in-reply-to", "references")
    for value in values[:_MOST_IDS]:
        for one in value.split()[:_MOST_IDS]:
            yield one.strip("<>")
