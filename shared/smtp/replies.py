"""SMTP replies and what they say about the recipient's address.

A refusal that rejects the address itself suppresses it, whether it comes as a reply while the message is sent or as a
bounce hours later; so both read it here.
"""

from __future__ import annotations

import re

import msgspec

from shared.smtp.blame import accuses_recipient, names_another, speaks_of_policy

# some servers write #5.7.1 (Cisco) or [5.7.1]; with more digits behind it, it is an IP address or a version
_CODE = r"([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)"
_ENHANCED = re.compile(rf"^[ \t]*[#(\[]?{_CODE}", re.MULTILINE)
# qmail and others put it last: "sorry, no mailbox here by that name. (#5.1.1)"
_ENHANCED_LATE = re.compile(rf"(?:#|[(\[]#?){_CODE}|(?<!\S){_CODE}[.)\]]*\s*\Z")
# the address itself does not exist (RFC 3463, 3.2); 5.1.10 is from RFC 7505 (null MX)
NO_SUCH_ADDRESS = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
_REFUSED_ADDRESS = frozenset({550, 551, 553})
_STOP_CODES = frozenset({530, 534, 535, 538})


class Reply(msgspec.Struct, frozen=True):
    """A server's reply: its basic code and its text (lines joined by a line feed)."""

    code: int
    text: str

    @property
    def enhanced(self) -> str:
        """The enhanced status code, or ""; one behind the words counts only in the basic code's class."""
        found = _ENHANCED.search(self.text)
        if found:
            return ".".join(found.groups())
        late = (list(filter(None, one.groups())) for one in _ENHANCED_LATE.finditer(self.text))
        return next((".".join(digits) for digits in late if digits[0] == str(self.code)[:1]), "")

    @property
    def codes(self) -> str:
        """Both codes as logs and rows show them, such as "550 5.1.1"."""
        return f"{self.code} {self.enhanced}".rstrip()

    @property
    def words(self) -> str:
        """The whole reply in the server's own words."""
        return f"{self.code} {self.text}".rstrip()

    @property
    def refuses_credentials(self) -> bool:
        """Whether it finally refuses our log-in; a 4xx never does, whatever its enhanced code."""
        return self.code in _STOP_CODES or (self.enhanced == "5.7.8" and not 400 <= self.code < 500)

    @property
    def is_policy(self) -> bool:
        """Whether it refuses for security or policy reasons (5.7.x)."""
        return self.enhanced.startswith("5.7.")


def rejects_address(reply: Reply, recipient: str, *, by_words: bool) -> bool:
    """Return whether a reply rejects the recipient's address, without any word of policy or another address alone.

    `by_words`: a reply without an enhanced code may reject it by its words (docs/decisions/0151).
    """
    if reply.enhanced:
        verdict = reply.enhanced in NO_SUCH_ADDRESS
    else:
        verdict = by_words and reply.code in _REFUSED_ADDRESS and accuses_recipient(reply.text)
    return verdict and not speaks_of_policy(reply.text, recipient) and not names_another(reply.text, recipient)
