"""The meaning of the SMS centre's replies."""

from __future__ import annotations

from shared.errors import DeferredError, PermanentError, SendError, StopChannelError, TransientError


def read_reply(line: str) -> str:
    """Return the id of an accepted message ("OK 17"); raises the SendError of any other reply."""
    word, _, rest = line.partition(" ")
    if word == "OK":
        return rest
    raise _refusal(word, rest, line)


def _refusal(word: str, rest: str, line: str) -> SendError:
    if word == "BUSY":
        return DeferredError("the centre is busy", code=word, reply=line, wait_s=float(rest))
    if word == "NOBODY":
        return PermanentError("no such number", code=word, reply=line, suppress=word)
    if word == "UNPAID":
        return StopChannelError("the bill is not paid", code=word, reply=line)
    return TransientError("the centre failed", code=word, reply=line)
