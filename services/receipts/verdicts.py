"""Hard or soft: whether a bounce condemns the recipient's address.

A hard bounce suppresses the address for all messages, so a wrong one loses mail to a person who wants it. It needs a
verdict on the address itself. Refusals for policy, content or reputation, full mailboxes and refusals by a server in
trouble are soft, even if the provider files them as hard (docs/decisions/0255).
"""

from __future__ import annotations

import re
from typing import Literal

from shared.smtp.blame import accuses_recipient, names_another, speaks_of_policy
from shared.smtp.replies import NO_SUCH_ADDRESS

Verdict = Literal["hard", "soft"]

_LONGEST = 2048
_ENHANCED = re.compile(r"(?<![\w.])([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)")
# the first words of a reply may be a transport ("smtp; 550 …") or a provider's word ("RecipientError: 550 …")
_BASIC = re.compile(r"(?<![\w.])([245]\d\d)(?=[ -])")
_REFUSED_ADDRESS = frozenset({"", "550", "551", "553"})
# RFC 3463: the sender's address, a full mailbox, a long message, a list's problem; mail system; content; policy
_NOT_THE_ADDRESS = re.compile(r"5\.(?:1\.[78]|2\.[234]|3\.[1-9]\d*|6\.\d+|7\.\d+)")
_STORAGE_EXCEEDED = "552"
# "501 Invalid domain name" is about the name in our HELO
_SYNTAX = re.compile(r"50\d")
# network and routing (5.4.x), except that the address's domain may have no host (5.4.4)
_NO_ROUTE = "5.4.4"
_NETWORK = re.compile(r"5\.4\.(?!4$)\d+")
# what servers say of a domain that has no mail server; many of them write no code
_NO_HOST = re.compile(
    r"\bhost (?:or domain name )?(?:not found|unknown)\b|\bdomain (?:name )?(?:does not exist|(?:was )?not found)\b|"
    r"\b(?:invalid|illegal|unknown|no such) (?:host|domain)\b|\bnxdomain\b|\bno mx record|\bno smtp service\b|"
    r"\bcould(?: not|n.?t) find (?:any host|a mail exchanger(?: or ip address)?)|"
    r"\bdomain \S* ?could(?: not|n.?t) be found\b",
    re.IGNORECASE,
)
# Yahoo says that this user doesn't have a yahoo.com account, with code 554
_NO_ACCOUNT = re.compile(r"\bdoes(?: not|n.?t) have an? (?:\S+ )?account\b", re.IGNORECASE)
# "mailbox disabled" (RFC 3463, 3.3): these words of policy then only say what the code says
_DISABLED = "5.2.1"
_SAYS_DISABLED = re.compile(r"\b(?:disabled|inactive|suspended|no longer active)\b", re.IGNORECASE)


def severity(code: str, words: str, recipient: str = "", *, said_hard: bool = False) -> Verdict:
    """Return whether a bounce with this code and these words is hard.

    `code` is an enhanced code (RFC 3463), a basic one, or "". The words may have a code of their own, which counts
    where `code` is missing or says nothing (x.y.0, x.5.z). `said_hard`: the provider calls the bounce hard, so only a
    code or word to the contrary makes it soft. So do words that quote addresses and not the `recipient`: they may be
    about our sender.
    """
    words = words[:_LONGEST]
    basic, enhanced = _codes(code, words)
    if "4" in (basic[:1], enhanced[:1]) or (not enhanced and basic == _STORAGE_EXCEEDED):
        return "soft"
    if _NOT_THE_ADDRESS.fullmatch(enhanced) or _NETWORK.fullmatch(enhanced):
        return "soft"
    judged = _SAYS_DISABLED.sub(" ", words) if enhanced == _DISABLED else words
    if speaks_of_policy(_NO_HOST.sub(" ", judged)) or names_another(words, recipient):
        return "soft"
    unspecific = not enhanced or _says_nothing(enhanced)
    if unspecific and _SYNTAX.fullmatch(basic):
        return "soft"
    if said_hard or enhanced in NO_SUCH_ADDRESS or enhanced == _DISABLED:
        return "hard"
    return "hard" if (unspecific or enhanced == _NO_ROUTE) and _condemns(basic, words) else "soft"


def _condemns(basic: str, words: str) -> bool:
    """Return whether words without a telling code say that the address, or its domain, does not exist."""
    if _NO_HOST.search(words) or _NO_ACCOUNT.search(words):
        return True
    return basic in _REFUSED_ADDRESS and accuses_recipient(words)


def _codes(code: str, words: str) -> tuple[str, str]:
    """Return the basic and the enhanced code of a bounce, "" for what neither `code` nor the words have."""
    given = _ENHANCED.search(code)
    enhanced = given[0] if given else ""
    basic = _BASIC.search(f"{code} ") or _BASIC.search(words)
    if not enhanced or _says_nothing(enhanced):
        said = _ENHANCED.search(words)
        enhanced = said[0] if said else enhanced
    return (basic[1] if basic else ""), enhanced


def _says_nothing(enhanced: str) -> bool:
    """Return whether a code names no cause: "other" in its subject, or a subject that is about the protocol."""
    return enhanced.endswith(".0") or enhanced[1:].startswith(".5.")
