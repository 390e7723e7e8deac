"""What servers' answers mean: the table of classes, held against real answers of providers."""

from __future__ import annotations

from collections import Counter
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.email_sender.replies import LONGEST_WAIT_S, Reply, Stage, asked_wait_s, classify
from shared.errors import DeferredError, PermanentError, SendError, StopChannelError, TransientError
from tests.unit.email_sender.real_replies import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=[f"{case.stage.value} {case.code} {case.text[:40]}" for case in CASES])
def test_real_answer_has_its_class(case: Case) -> None:
    """Class, suppression and wait are the table's, and the error carries code and words as they were said."""
    error = classify(case.stage, Reply(case.code, case.text))
    assert type(error) is case.kind
    assert bool(getattr(error, "suppress", "")) is case.suppresses
    assert getattr(error, "wait_s", None) == case.wait_s
    assert error.reply == f"{case.code} {case.text}"
    assert error.code.startswith(str(case.code))


def test_table_is_of_many_providers() -> None:
    """At least forty answers, of five providers and more, each with its source."""
    hosts = Counter(urlsplit(case.source).netloc for case in CASES)
    assert len({(case.code, case.text) for case in CASES}) >= 40
    assert len(hosts) >= 5
    assert all(urlsplit(case.source).scheme == "https" for case in CASES)


@pytest.mark.parametrize(
    ("stage", "code", "suppresses"),
    [(stage, code, stage is Stage.RCPT and code in {550, 551, 553})
     for stage in (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT) for code in (550, 551, 552, 553, 554)],
)  # fmt: skip
def test_bare_code_suppresses_at_rcpt_alone(stage: Stage, code: int, suppresses: bool) -> None:
    """Only a bare 550, 551 or 553 to RCPT TO says that the address is bad."""
    error = classify(stage, Reply(code, "no"))
    assert isinstance(error, PermanentError)
    assert bool(error.suppress) is suppresses


@pytest.mark.parametrize(
    ("enhanced", "suppresses"),
    [("5.1.1", True), ("5.1.2", True), ("5.1.3", True), ("5.1.6", True), ("5.1.10", True), ("5.1.0", False),
     ("5.1.7", False), ("5.1.8", False), ("5.2.1", False), ("5.2.2", False), ("5.4.1", False), ("5.4.6", False),
     ("5.7.1", False), ("5.7.26", False), ("5.1.11", False), ("5.0.0", False)],
)  # fmt: skip
def test_enhanced_code_decides_over_the_basic_one(enhanced: str, suppresses: bool) -> None:
    """A 550 to RCPT that says 5.7.1 suppresses nobody; a 554 that says 5.1.1 does."""
    for code in (550, 553, 554):
        error = classify(Stage.RCPT, Reply(code, f"{enhanced} words"))
        assert isinstance(error, PermanentError)
        assert bool(error.suppress) is suppresses


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [("try again in 2 seconds", 2), ("Try again in 5 minutes.", 300), ("retry after 60s", 60),
     ("please come back in 01:00:30", 3630), ("Greylisted for 300 seconds", 300), ("try again in 2 hours", 7200),
     ("deferred, wait 90 secs", 90), ("retry in 1m", 60), ("try again later", None), ("in 5 minutes", None),
     ("try again in 5 messages", None), ("try again in 99 hours", LONGEST_WAIT_S), ("try again in 3 months", None),
     ("host 10.0.0.5 said try again", None), ("Try again later. d9443c01a7-si9876543x4m.12 - gsmtp", None),
     ("try again in 0 seconds", None), ("come back in 00:00:00", None)],
)  # fmt: skip
def test_wait_is_read_from_words(text: str, wait_s: float | None) -> None:
    """A wait counts where it is asked for, in seconds, minutes, hours or as a clock; never nothing, a day at most."""
    assert asked_wait_s(text) == wait_s


@given(st.sampled_from(Stage), st.integers(200, 599), st.text(max_size=60))
def test_any_reply_has_a_class(stage: Stage, code: int, text: str) -> None:
    """Nothing that a server says is without an outcome; a 4xx without stop words is never final."""
    error = classify(stage, Reply(code, text))
    assert isinstance(error, SendError)
    if 400 <= code < 500 and not Reply(code, text).enhanced:
        assert not isinstance(error, PermanentError | StopChannelError)


def test_enhanced_code_is_the_first_word_alone() -> None:
    """Digits in the text are no status code; more lines than one make one reply."""
    assert Reply(550, "5.1.1 no").enhanced == "5.1.1"
    assert Reply(550, "host 5.1.1 no").enhanced == ""
    assert Reply(550, "5.1.1234 no").enhanced == ""
    assert Reply(550, "5.1.1.20 is listed").enhanced == ""
    assert Reply(550, "[5.7.1.9] is listed").enhanced == ""
    assert Reply(550, "5.7.1. Blocked").enhanced == "5.7.1"
    assert Reply(550, "5.7.26 a\n5.7.26 b").codes == "550 5.7.26"
    assert isinstance(classify(Stage.RCPT, Reply(550, "4.7.1 grey")), DeferredError)
    assert isinstance(classify(Stage.RCPT, Reply(354, "what")), TransientError)


@pytest.mark.parametrize(
    "text",
    ["#5.7.1 Your access to submit messages to this e-mail system has been rejected.", "[5.7.1] no", "(5.7.1) no"],
)
def test_enhanced_code_in_dress_counts_too(text: str) -> None:
    """Read as a bare 550, a refusal of the sender would suppress every address at that provider."""
    error = classify(Stage.RCPT, Reply(550, text))
    assert isinstance(error, PermanentError)
    assert (error.code, error.suppress) == ("550 5.7.1", "")
