"""Search in the mailbox: by fields, and by the words of the text that a reader sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.sandbox.bubble import read_bubble
from services.sandbox.mailbox import Kept
from services.sandbox.mime import read_mail

# of the bodies only these are read, so that a search of a large mailbox ends
MOST_BODIES = 1000
_SEARCHED_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to find: None and "" match everything. `to` is a part of the address in lower case, `q` any text."""

    channel: str | None = None
    job_id: str | None = None
    to: str = ""
    q: str = ""
    limit: int = 50
    before: int = 10**15


def search(newest: Iterable[Kept], wanted: Wanted) -> list[Kept]:
    """Return the first messages that match; `newest` are all, the newest first."""
    found: list[Kept] = []
    words = wanted.q.casefold()
    bodies = 0
    for kept in newest:
        if not _is_wanted(kept, wanted):
            continue
        if words and not _in_fields(kept, words):
            bodies += 1
            if bodies > MOST_BODIES or words not in body_text(kept).casefold():
                continue
        found.append(kept)
        if len(found) == wanted.limit:
            break
    return found


def _is_wanted(kept: Kept, wanted: Wanted) -> bool:
    message = kept.message
    return (
        kept.number < wanted.before
        and wanted.channel in {None, message.channel}
        and wanted.job_id in {None, message.job_id}
        and wanted.to in message.to.lower()
    )


def _in_fields(kept: Kept, words: str) -> bool:
    message = kept.message
    fields = (message.to, message.subject, message.sender, message.job_id, message.message_id)
    return any(words in one.casefold() for one in fields)


def body_text(kept: Kept) -> str:
    """Return the text that a reader sees, of the beginning of a long message."""
    source = kept.message.source[:_SEARCHED_BYTES]
    if kept.message.channel == "email":
        mail = read_mail(source)
        part = mail.text or mail.html
        return part.text if part else ""
    bubble = read_bubble(source)
    return "\n".join([*bubble.header, *bubble.body, *bubble.buttons]) if bubble else ""
