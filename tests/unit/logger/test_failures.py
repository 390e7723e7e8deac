"""Failures by reason: counting them, and sending one group of them again."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from services.logger import failures, redelivery
from services.logger.failures import failures_of
from services.logger.redelivery import RetryRequest, UnknownBlastError, open_runs_of_reason
from shared.events import Ended
from tests.unit.logger.database import START_MS, Database, accepted, blast, entry, failed, queued, sent

EMAIL = RetryRequest(blast_id="b", channel="email")


def fail(index: int, error_class: str, code: str, words: str) -> Ended:
    return msgspec.structs.replace(failed(index), error_class=error_class, code=code, message=words)


@pytest.fixture
def filled(database: Database) -> Database:
    """A blast of ten: one sent, the others failed for four reasons."""
    database.apply(entry(1, accepted(blast(total=10)), queued(range(10))))
    ends = [fail(index, "permanent", "5.1.1", f"no such user {index}") for index in (1, 2, 3, 4)]
    ends += [fail(index, "permanent", "5.7.1", "blocked") for index in (5, 6)]
    ends += [fail(7, "permanent", "", "odd"), fail(8, "uncertain", "", "lost"), fail(9, "uncertain", "", "lost")]
    database.apply(entry(2, sent(0), *ends))
    return database


def reopen(database: Database, wanted: RetryRequest) -> tuple[int, int]:
    """Open all letters of a reason as the outbox does; return how many were reopened and skipped."""
    reopened = skipped = after = 0
    while True:
        done = open_runs_of_reason(database.connection, START_MS + 10, wanted, after)
        reopened, skipped, after = reopened + done.reopened, skipped + done.skipped, done.after
        if not after:
            return reopened, skipped


def test_failures_are_counted_by_reason(filled: Database) -> None:
    """The most frequent first, each with the latest example."""
    found = failures_of(filled.connection, "b")
    shown = [(one["errorClass"], one["errorCode"], one["count"], one["example"]) for one in found["failures"]]
    assert shown[0] == ("permanent", "5.1.1", 4, "no such user 4")
    assert sorted(shown[1:]) == [
        ("permanent", "", 1, "odd"), ("permanent", "5.7.1", 2, "blocked"), ("uncertain", "", 2, "lost"),
    ]  # fmt: skip
    assert found["complete"] is True


def test_a_count_that_is_cut_says_so(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more failures than are counted, the latest are."""
    monkeypatch.setattr(failures, "MOST_COUNTED", 5)
    found = failures_of(filled.connection, "b")
    assert sum(one["count"] for one in found["failures"]) == 5
    assert found["complete"] is False


def test_an_unknown_blast_has_no_failures(database: Database) -> None:
    """It is an error, not an empty list."""
    with pytest.raises(UnknownBlastError):
        failures_of(database.connection, "nothing")


@pytest.mark.parametrize(
    ("reason", "reopened"),
    [
        ({"error_class": "permanent", "error_code": "5.1.1"}, (4, 0)),
        ({"error_class": "permanent", "error_code": ""}, (1, 0)),
        ({"error_class": "permanent"}, (7, 0)),
        ({"error_code": "5.7.1"}, (2, 0)),
        ({"error_class": "uncertain"}, (0, 2)),
        ({"error_class": "uncertain", "include_uncertain": True}, (2, 0)),
        ({"error_class": "transient"}, (0, 0)),
    ],
)
@pytest.mark.parametrize("at_a_time", [2, 1000])
def test_one_group_is_sent_again(
    filled: Database, monkeypatch: pytest.MonkeyPatch, reason: dict[str, str], reopened: tuple[int, int], at_a_time: int
) -> None:
    """Only messages that failed so are queued again, however many transactions it takes; a second call finds none."""
    monkeypatch.setattr(redelivery, "LETTERS_A_TRANSACTION", at_a_time)
    wanted = replace(EMAIL, **reason)  # type: ignore[arg-type]  # fields by name
    assert reopen(filled, wanted) == reopened
    assert filled.one("SELECT count(*) FROM message_logs WHERE status = 'queued'") == reopened[0]
    assert reopen(filled, wanted) == (0, reopened[1])
    filled.counts_agree()
