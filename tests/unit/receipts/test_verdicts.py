"""Hard or soft: only a verdict on the address itself is hard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.receipts.verdicts import severity

HARD = [
    ("5.1.1", "smtp; 550 5.1.1 <jane@example.com>... User unknown"),
    ("5.1.1", ""),
    ("5.1.2", "bad destination system address"),
    ("5.1.10", "recipient domain has null MX"),
    ("5.2.1", "550 5.2.1 The email account that you tried to reach is disabled."),
    ("5.2.1", "mailbox disabled, not accepting messages"),
    ("550", "550 No such user here"),
    ("", "550 5.1.1 The email account that you tried to reach does not exist."),
    ("5.0.0", "smtp; 550 5.1.1 unknown or illegal alias"),
    ("5.0.0", "550 no mailbox here by that name"),
    ("", "unrouteable address: host unknown"),
    ("", "Sorry, I couldn't find any host named example.invalid. (#5.1.2)"),
    ("", "Sorry, I couldn't find a mail exchanger or IP address. (#5.4.4)"),
    ("5.0.0", "550 host not found"),
    ("554", "554 delivery error: dd This user doesn't have a yahoo.com account (jane@yahoo.com)"),
    ("5.4.4", "Host or domain name not found. Name service error for name=example.invalid type=AAAA: Host not found"),
]
SOFT = [
    ("5.7.1", "550 5.7.1 user unknown"),
    ("5.7.26", "Unauthenticated email is not accepted due to domain's DMARC policy"),
    ("", "550 5.7.1 This message was blocked because its content presents a potential security issue"),
    ("", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"),
    ("5.2.2", "552 5.2.2 The email account that you tried to reach is over quota"),
    ("", "552 Mailbox full"),
    ("552", ""),
    ("5.0.0", "552 1 Requested mail action aborted, mailbox not found: over quota"),
    ("5.2.1", "550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents more"),
    ("5.3.4", "552 5.3.4 message size exceeds fixed limit"),
    ("5.7.1", "550 5.7.1 no such domain"),
    ("", "451 DNS temporary failure: host not found"),
    ("5.6.0", "lone CR or LF in body"),
    ("5.4.1", "550 5.4.1 Recipient address rejected: Access denied"),
    ("5.4.6", "routing loop detected"),
    ("5.1.8", "sender address rejected: domain not found"),
    ("4.4.7", "message expired: user unknown"),
    ("4.1.1", "user unknown"),
    ("5.1.1", "450 4.1.1 user unknown, try again later"),
    ("", "421 user unknown"),
    # about the name in our HELO
    ("", "501 5.0.0 Invalid domain name"),
    ("5.0.0", "smtp; 501 unknown host mail.example.com"),
    ("498", "No MX for nomx.example.com: 450 no such user"),
    # a server or a network in trouble
    ("554", "smtp;554 5.0.0 Service unavailable"),
    ("5.3.0", "554 5.3.0 internal server error"),
    ("5.0.0", "error dialing remote address: dial tcp 192.0.2.1:25: connect: no route to host"),
]


@pytest.mark.parametrize(("code", "words"), HARD)
def test_verdict_on_the_address_is_hard(code: str, words: str) -> None:
    """A code or words that condemn the address are hard, whether or not the provider says so."""
    assert severity(code, words) == "hard"
    assert severity(code, words, said_hard=True) == "hard"


@pytest.mark.parametrize(("code", "words"), SOFT)
def test_everything_else_is_soft(code: str, words: str) -> None:
    """Policy, content, reputation, full mailboxes and delays are soft, even if the provider says hard."""
    assert severity(code, words) == "soft"
    assert severity(code, words, said_hard=True) == "soft"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", ""),
        ("550", "550 5.5.0 Requested action not taken: mailbox unavailable."),
        ("5.0.0", "550 no"),
        ("554", "554 delivery error: dd Sorry, your message cannot be delivered."),
    ],
)
def test_providers_word_counts_where_nothing_contradicts(code: str, words: str) -> None:
    """A bounce without a telling code or word is hard if the provider says so, and soft otherwise."""
    assert severity(code, words, said_hard=True) == "hard"
    if "mailbox unavailable" not in words:
        assert severity(code, words) == "soft"


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("smtp; 550 5.1.1 <news@shop.example>: User unknown", "soft"),
        ("550 5.1.1 unknown user: bounces+7@mail.shop.example", "soft"),
        ("550 5.1.1 <jane@inside.example.net>: no such user", "hard"),
        ("550 5.1.1 <Jane@Example.com> from <news@shop.example>: no such recipient", "hard"),
        ("550 5.1.1 user unknown", "hard"),
    ],
)
@pytest.mark.parametrize("recipient", ["jane@example.com", "jane+shop@example.com", "jane", '"jane"@example.com'])
def test_words_about_another_address_are_soft(words: str, verdict: str, recipient: str) -> None:
    """A server that does not know our sender says so with the codes of a recipient; the recipient may be well."""
    assert severity("5.1.1", words, recipient, said_hard=True) == verdict


@given(code=st.text(max_size=80), words=st.text(max_size=4000), said_hard=st.booleans())
def test_any_text_has_a_verdict(code: str, words: str, said_hard: bool) -> None:
    """Any text has a verdict."""
    assert severity(code, words, said_hard=said_hard) in {"hard", "soft"}


@given(code=st.sampled_from(["5.7.1", "5.7.26", "5.2.2", "4.2.2"]), words=st.sampled_from([words for _, words in HARD]))
def test_code_of_policy_is_never_hard(code: str, words: str) -> None:
    """A code of policy, of a full mailbox or of a delay is soft, whatever the words say."""
    assert severity(code, words, said_hard=True) == "soft"
