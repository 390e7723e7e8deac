"""Reads bounces that have no report of RFC 3464: Exim's and qmail's, and those of systems that write text alone.

A mail counts as a bounce only if it says so in a known form, or if a mail server wrote it and its subject or its first
lines say that a message was not delivered. All else is left to a person: see `read_mail`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.receipts.mail.bounce_phrases import DAEMON_NAMES, DAEMONS, DELAYED, FAILED, NO_DELAY, QMAIL, SURE_DAEMONS
from services.receipts.mail.delivery_status import MOST_RECIPIENTS, Outcome
from services.receipts.mail.received import ReceivedMail
from services.receipts.mail.verdict import read_reply
from shared.smtp.blame import accuses_recipient, speaks_of_policy

_READ = 16 * 1024
_MOST_LINES = 400
_MOST_WORDS = 2000
_MOST_PARAGRAPHS = 20
_GAP = re.compile(r"\n[ \t]{0,80}\n")
_ADDRESS = re.compile(r"[^\s<>\"'(),;:\[\]]{1,64}@[^\s<>\"'(),;:\[\]]{1,253}")
_BRACKETED = re.compile(rf"<(?:{_ADDRESS.pattern}|\"[^\"<>\\]{{1,64}}\"@[^\s<>\"]{{1,253}})>")
# an address that begins its line, alone or before a colon, as Exim, qmail, Gmail and Yahoo write it
_LISTED = re.compile(rf"[ \t]{{0,20}}(?:\*[ \t])?[<\"']?({_ADDRESS.pattern})[>\"']?[ \t]*(?:$|[:(\[]|\.\.\. | on )")


def read_listed(mail: ReceivedMail) -> list[Outcome]:
    """Return the outcomes of a bounce whose header lists its recipients, as Exim's does; none for other mail."""
    failed = _ADDRESS.findall(" ".join(mail.headers.all("x-failed-recipients"))[:_READ])
    return _outcomes(mail, failed) if failed else []


def read_marked(mail: ReceivedMail) -> list[Outcome]:
    """Return the outcomes of a bounce that qmail or its kin wrote, by their words; none for other mail."""
    lowered = mail.text[:_READ].lower()
    return _outcomes(mail, _listed(mail.text)) if any(words in lowered for words in QMAIL) else []


def is_from_daemon(mail: ReceivedMail) -> bool:
    """Return whether a mail server wrote a mail, to judge by its From."""
    return (
        _local_part(mail) in DAEMONS
        or is_surely_from_daemon(mail)
        or any(name in mail.headers.readable("from").lower() for name in DAEMON_NAMES)
    )


def is_surely_from_daemon(mail: ReceivedMail) -> bool:
    """Return whether a mail is from an address that only mail servers have."""
    return _local_part(mail).startswith(SURE_DAEMONS)


def address_in(value: str) -> str:
    """Return the first address of a header field, one in angle brackets before others; "" if it has none.

    The standard library's parser of addresses recurses over nested comments and groups.
    """
    found = _BRACKETED.search(value)
    if found is None:
        found = _ADDRESS.search(value)
    return found[0].strip("<>") if found else ""


def _local_part(mail: ReceivedMail) -> str:
    sender = mail.headers.readable("from").lower()
    found = _ADDRESS.search(sender)
    return found[0].partition("@")[0] if found else sender.strip("<> ")


def has_null_sender(mail: ReceivedMail) -> bool:
    """Return whether a mail came from the null sender, as notifications do (RFC 5321, 4.5.5)."""
    return any(value.strip() == "<>" for value in mail.headers.all("return-path"))


def subject_says_failed(mail: ReceivedMail) -> bool:
    """Return whether the subject says that a message was not delivered."""
    return any(words in mail.subject for words in FAILED)


def read_unmarked(mail: ReceivedMail) -> list[Outcome]:
    """Return the outcomes of a mail server's text, or of its HTML alone; none if it does not say that it failed."""
    said = f"{mail.subject}\n{mail.text[:_READ].lower()}"
    if not any(words in said for words in FAILED):
        return [Outcome("delayed", "")] if any(words in said for words in DELAYED) else []
    return _outcomes(mail, _listed(mail.text))


def _outcomes(mail: ReceivedMail, addresses: Sequence[str]) -> list[Outcome]:
    """Return one outcome per address, or one without an address; each with the words that follow it."""
    text = mail.text[:_READ]
    action = "delayed" if _is_delay(mail.subject, text.lower()) else "failed"
    distinct = list(dict.fromkeys(addresses))[:MOST_RECIPIENTS]
    if len(distinct) < 2:
        address = distinct[0] if distinct else ""
        return [Outcome(action, address, words=words_about(text, address))]
    return [
        Outcome(action, one, words=words_about(text, one, [other for other in distinct if other != one]))
        for one in distinct[:50]
    ]


def _is_delay(subject: str, text: str) -> bool:
    """Return whether a server says that it still tries; a subject that says it failed may quote ours: "… delayed"."""
    if any(words in f"{subject}\n{text}" for words in NO_DELAY):
        return False
    said = text if any(words in subject for words in FAILED) else f"{subject}\n{text}"
    return any(words in said for words in DELAYED)


def _listed(text: str) -> list[str]:
    """Return the addresses that begin a line of their own."""
    lines = text[:_READ].split("\n")[:_MOST_LINES]
    return [found[1] for line in lines if (found := _LISTED.match(line[:400])) is not None]


def words_about(text: str, address: str, others: Sequence[str] = ()) -> str:
    """Return a text's words about an address: what follows it up to the next address, from its SMTP reply on if any.

    Without an address, the paragraph with a reply; without a reply, the first paragraph that says why.
    """
    at = text.lower().find(address.lower()) if address else -1
    about = text[at + len(address) :] if at >= 0 else text
    ends = [found for other in others if (found := about.find(other)) >= 0]
    about = about[: min(ends, default=len(about))].strip(" \t\n>:\"'.,)(")
    paragraphs = [one.strip() for one in _GAP.split(about) if one.strip()][:_MOST_PARAGRAPHS]
    for paragraph in paragraphs:
        if read_reply(paragraph).code:
            return _from_reply(paragraph)[:_MOST_WORDS]
    why = (one for one in paragraphs if accuses_recipient(one) or speaks_of_policy(one))
    return next(why, paragraphs[0] if paragraphs else "")[:_MOST_WORDS]


def _from_reply(paragraph: str) -> str:
    """Return a paragraph from the line on that has its SMTP reply."""
    lines = paragraph.strip().split("\n")
    first = next((number for number, line in enumerate(lines) if read_reply(line).code), 0)
    return "\n".join(lines[first:])
