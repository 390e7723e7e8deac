"""Sending again what matches a filter: which messages, after which confirmation, and which are left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec
import pytest

from services.logger import matching
from services.logger.filters import MessageFilter
from services.logger.matching import NotConfirmedError, Retried, find_failed, retry_matching
from services.logger.redelivery import Outbox
from services.logger.store import Store
from shared.events import BlastChanged, Ended
from tests.unit.logger.database import START_MS, Database, accepted, blast, entry, failed, queued, sent

ResultT = TypeVar("ResultT")
FAILED = MessageFilter(statuses=("failed",))


class _Store:
    """A store that works on the test's database, on a thread as a real one does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, work: Callable[[Any], ResultT]) -> ResultT:
        return await asyncio.to_thread(work, self._database.connection)

    write = read


def fail(index: int, blast_id: str = "b", error_class: str = "permanent") -> Ended:
    return msgspec.structs.replace(failed(index, blast_id), error_class=error_class)


@pytest.fixture
def filled(database: Database) -> Database:
    """Two blasts of five: each with one sent and four failed messages, one of them uncertain."""
    for number, name in enumerate(("b", "c")):
        database.apply(entry(3 * number + 1, accepted(blast(name, total=5)), queued(range(5), name)))
        ends = [*(fail(index, name) for index in (1, 2, 3)), fail(4, name, "uncertain")]
        database.apply(entry(3 * number + 2, sent(0, name), *ends))
    return database


class Calls:
    """Retries on a database."""

    def __init__(self, database: Database) -> None:
        store: Any = _Store(database)
        nothing: Any = None
        self._store = cast("Store", store)
        self._outbox = Outbox(self._store, nothing, nothing)

    async def retry(self, wanted: MessageFilter, confirm: int | None, *, uncertain: bool = False) -> Retried:
        return await retry_matching(self._store, self._outbox, wanted, confirm, include_uncertain=uncertain)

    async def found(self, wanted: MessageFilter, most: int) -> tuple[list[str], bool]:
        matches = await find_failed(self._store, wanted, most)
        return list(matches.job_ids), matches.complete


@pytest.fixture
def calls(filled: Database) -> Calls:
    return Calls(filled)


async def test_without_confirmation_matches_are_counted(calls: Calls, filled: Database) -> None:
    """Only failed messages match, whatever else the filter says; nothing changes."""
    assert await calls.retry(MessageFilter(), None) == Retried(8, complete=True)
    assert await calls.retry(MessageFilter(blast="b"), None) == Retried(4, complete=True)
    assert await calls.retry(MessageFilter(statuses=("sent",)), None) == Retried(0, complete=True)
    assert await calls.retry(MessageFilter(error_class="uncertain"), None) == Retried(2, complete=True)
    assert filled.one("SELECT count(*) FROM message_logs WHERE status = 'queued'") == 0


async def test_confirmed_messages_are_sent_again(calls: Calls, filled: Database) -> None:
    """Those of all blasts that match; the uncertain ones are left out until they are included."""
    assert await calls.retry(FAILED, 8) == Retried(8, complete=True, reopened=6, skipped=2)
    assert await calls.retry(FAILED, 8, uncertain=True) == Retried(2, complete=True, reopened=2)
    assert await calls.retry(FAILED, 8) == Retried(0, complete=True)
    assert filled.one("SELECT count(*) FROM message_logs WHERE status = 'queued'") == 8
    assert filled.one("SELECT count(*) FROM dead_letters") == 0
    filled.counts_agree()


async def test_more_than_was_confirmed_is_refused(calls: Calls, filled: Database) -> None:
    """What was not counted is not sent again; fewer than confirmed is no surprise."""
    with pytest.raises(NotConfirmedError, match="8 failed messages match"):
        await calls.retry(FAILED, 7)
    assert filled.one("SELECT count(*) FROM dead_letters") == 8


async def test_one_call_takes_a_bounded_number(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest ones, and it says that there are more."""
    monkeypatch.setattr(matching, "MOST_MATCHED", 3)
    assert await calls.retry(FAILED, None) == Retried(3, complete=False)
    assert await calls.retry(FAILED, 3, uncertain=True) == Retried(3, complete=False, reopened=3)
    assert await calls.retry(FAILED, None) == Retried(3, complete=False)


async def test_the_latest_are_found_first(calls: Calls) -> None:
    """Over pages too, in the order of the list."""
    found, complete = await calls.found(FAILED, 5)
    assert found == [f"c:{index}:email" for index in (4, 3, 2, 1)] + ["b:4:email"]
    assert not complete


async def test_messages_of_a_cancelled_blast_are_left_out(calls: Calls, filled: Database) -> None:
    """Nothing of it is begun again."""
    filled.apply(entry(20, BlastChanged(START_MS + 5, "b", "cancelled", "")))
    done = await calls.retry(FAILED, 8, uncertain=True)
    assert (done.reopened, done.skipped) == (4, 4)
