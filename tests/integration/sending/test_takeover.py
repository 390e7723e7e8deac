"""Senders that ended without leaving the queue, and what their journals spare: repetitions, attempts and time."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from shared.clock import SystemClock
from shared.events import Returned, Sent, pack_event
from shared.queue.consumer import Consumer
from shared.queue.leases import HeldEntry, Lease
from shared.queue.reaper import Reaper
from shared.sending.journal import Journal, LeftJournal, Owner
from shared.sending.takeover import Takeover
from tests.integration.queue.world import AT_ONCE, HandSender, World


@dataclass
class Ended:
    """A sender that ended: of five jobs begun two were accepted, one was taken, one refused; five were buffered."""

    sender: HandSender
    journal: Journal
    begun: list[Lease]

    @property
    def path(self) -> Path:
        return self.journal.path


async def ended(world: World, folder: Path, *, frozen: bool = False) -> Ended:
    """Let a sender end in mid-send; a frozen one keeps the lock of its journal."""
    sender = await world.sender()
    leases = await sender.fetch(10)
    assert {grant.kind for grant in await sender.begin(leases[:5])} == {"granted"}
    journal = Journal(folder, Owner(sender.name, world.partition.keys.tag), 20)
    for lease in leases[:2]:
        event = Sent(
            1, lease.job_id, lease.job.run, lease.attempt, f"<{lease.job.index}>", "250 yes", 7, "Hello", False
        )
        journal.accept(journal.take(lease.key), pack_event(event))
    journal.take(leases[2].key)
    journal.refuse(journal.take(leases[3].key))
    if not frozen:
        journal.close(keep=True)
    return Ended(sender, journal, leases[:5])


async def another(world: World, folder: Path) -> tuple[HandSender, Takeover, Reaper]:
    """Start another sender on the same host."""
    sender = await world.sender()
    reaper = Reaper(world.partition, sender.name, AT_ONCE)
    return sender, Takeover(folder, [reaper], SystemClock()), reaper


async def lapse(world: World, sender: HandSender) -> None:
    """Let a sender's heartbeat lapse."""
    await world.redis.delete(world.partition.keys.key(f"sender:{sender.name}"))


async def test_only_what_was_handed_over_is_uncertain(both: World, tmp_path: Path) -> None:
    """G2, G4: accepted jobs are sent, in the provider's words; others keep their attempt; one is uncertain."""
    blast = await both.given(10)
    dead = await ended(both, tmp_path)
    sender, takeover, _ = await another(both, tmp_path)
    await takeover.take_over()
    assert dead.path.exists(), "its last calls may still arrive"
    await lapse(both, dead.sender)
    await takeover.take_over()
    assert not list(tmp_path.iterdir())
    progress = await both.progress(blast)
    assert (progress.counts["sent"], progress.counts["processing"], progress.counts["retrying"]) == (2, 0, 1)
    again = await sender.fetch(10)
    assert Counter(lease.attempt for lease in again) == {1: 7, 2: 1}
    assert {lease.job.index for lease in again} == set(range(2, 10))
    assert [lease.job.index for lease in again if lease.attempt == 2] == [2]
    events = await both.written()
    sent = [event for event in events if isinstance(event, Sent)]
    assert [(one.message_id, one.response, one.subject) for one in sent] == [
        (f"<{n}>", "250 yes", "Hello") for n in (0, 1)
    ]
    assert sum(isinstance(event, Returned) for event in events) == 2
    await both.check_balance(blast)


async def test_a_second_takeover_changes_nothing(both: World, tmp_path: Path) -> None:
    """G1, G4: a takeover that was itself cut off is repeated; nothing is counted twice."""
    blast = await both.given(10)
    dead = await ended(both, tmp_path)
    raw = dead.path.read_bytes()
    _, takeover, _ = await another(both, tmp_path)
    for _ in range(3):
        await takeover.take_over()
        dead.path.write_bytes(raw)
    progress = await both.progress(blast)
    assert (progress.counts["sent"], progress.counts["retrying"]) == (2, 1)
    await both.check_balance(blast)


async def test_the_journal_of_a_living_sender_is_left_alone(both: World, tmp_path: Path) -> None:
    """G2: while the lock is held its owner may still send, so nothing is taken from it."""
    blast = await both.given(10)
    alive = await ended(both, tmp_path, frozen=True)
    _, takeover, _ = await another(both, tmp_path)
    await takeover.take_over()
    assert alive.path.exists()
    assert (await both.progress(blast)).counts["processing"] == 5
    assert await alive.sender.finish(*alive.begun) == [True] * 5
    alive.journal.close(keep=False)


async def test_a_frozen_sender_is_reaped_by_its_journal(both: World, tmp_path: Path) -> None:
    """G2: once its lease has lapsed, only the job without an answer is uncertain; its late acceptance still counts."""
    blast = await both.given(10)
    frozen = await ended(both, tmp_path, frozen=True)
    sender, _, reaper = await another(both, tmp_path)
    await lapse(both, frozen.sender)
    (taken,) = await reaper.reap_dead()
    assert (taken.sender_id, taken.in_flight) == (frozen.sender.name, 1)
    counts = (await both.progress(blast)).counts
    assert (counts["sent"], counts["processing"], counts["retrying"]) == (2, 0, 1)
    assert await frozen.sender.finish(*frozen.begun) == [False] * 5
    assert await frozen.sender.late(frozen.begun[2])
    assert {lease.job.index for lease in await sender.fetch(10)} == set(range(3, 10))
    await both.check_balance(blast)
    frozen.journal.close(keep=False)


@pytest.mark.parametrize("flaw", ["incomplete", "foreign bytes", "missing"])
async def test_without_a_whole_journal_all_begun_jobs_are_uncertain(both: World, tmp_path: Path, flaw: str) -> None:
    """G2: what the journal does not say is never taken for "not handed over"."""
    blast = await both.given(10)
    dead = await ended(both, tmp_path, frozen=True)
    if flaw == "incomplete":
        dead.journal.take("k" * 5000)
    dead.journal.close(keep=flaw != "missing")
    if flaw == "foreign bytes":
        dead.path.write_bytes(b"\xff" * 9000)
    _, takeover, reaper = await another(both, tmp_path)
    await takeover.take_over()
    assert (await both.progress(blast)).counts["processing"] == 5
    await lapse(both, dead.sender)
    (taken,) = await reaper.reap_dead()
    assert (taken.from_buffer, taken.in_flight) == (5, 5)


async def test_a_journal_of_another_system_is_kept_for_it(both: World, tmp_path: Path) -> None:
    """Two systems on one host may share a folder: a sender that this queue does not know is not judged here."""
    await both.given(10)
    dead = await ended(both, tmp_path)
    _, takeover, _ = await another(both, tmp_path)
    known = both.partition.keys.key("senders")
    entry = await both.redis.hget(known, dead.sender.name)
    await both.redis.hdel(known, dead.sender.name)
    await takeover.take_over()
    assert dead.path.exists()
    await both.redis.hset(known, dead.sender.name, entry)
    await lapse(both, dead.sender)
    for _ in range(2):
        await takeover.take_over()
    assert not dead.path.exists()


async def test_old_journals_are_deleted(both: World, tmp_path: Path) -> None:
    """A journal of a sender that no queue here knows goes after a day."""
    await both.given(10)
    dead = await ended(both, tmp_path)
    await both.redis.hdel(both.partition.keys.key("senders"), dead.sender.name)
    _, takeover, _ = await another(both, tmp_path)
    os.utime(dead.path, (time.time() - 90_000,) * 2)
    await takeover.take_over()
    assert not dead.path.exists()


async def test_a_journal_that_is_being_made_is_left_to_its_owner(
    both: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G2: its owner may stand still before it locks the file; if another had the lock, it would have no journal."""
    path = tmp_path / "email-h-1-a{email}.new"
    path.touch()
    locked: list[Path] = []
    is_gone = LeftJournal.owner_is_gone

    def noted(journal: LeftJournal) -> bool:
        locked.append(journal.path)
        return is_gone(journal)

    monkeypatch.setattr(LeftJournal, "owner_is_gone", noted)
    _, takeover, _ = await another(both, tmp_path)
    await takeover.take_over()
    assert (path.exists(), locked) == (True, [])
    os.utime(path, (time.time() - 90_000,) * 2)
    await takeover.take_over()
    assert (path.exists(), locked) == (False, [path])


async def test_a_sender_that_thaws_before_it_is_taken_from_keeps_its_jobs(both: World, tmp_path: Path) -> None:
    """G2: its heartbeat is back when its journal is read, and it has begun new jobs: nothing is moved."""
    blast = await both.given(12)
    frozen = await ended(both, tmp_path, frozen=True)
    sender, _, reaper = await another(both, tmp_path)
    await lapse(both, frozen.sender)
    read_journal = reaper.before_taking
    fresh: list[Lease] = []

    async def thaws_first(name: str) -> None:
        await frozen.sender.consumer.heartbeat({"host": "h"})
        fresh.extend(await frozen.sender.take(2))
        await read_journal(name)

    reaper.before_taking = thaws_first
    await reaper.reap_dead()
    assert len(fresh) == 2
    assert not {lease.job_id for lease in await sender.fetch(20)} & {lease.job_id for lease in fresh}
    assert await frozen.sender.finish(*fresh) == [True, True]
    await both.check_balance(blast)
    frozen.journal.close(keep=False)


async def test_a_job_that_kills_its_senders_before_the_hand_over_is_poison(both: World, tmp_path: Path) -> None:
    """G7: rendering or signing may kill the process; the job uses attempts, and is poison after three of them."""
    blast = await both.given(1)
    for _ in range(3):
        dead = await both.sender()
        (lease,) = await dead.take(1)
        journal = Journal(tmp_path, Owner(dead.name, both.partition.keys.tag), 4)
        journal.take(lease.key)
        journal.close(keep=True)
        _, takeover, _ = await another(both, tmp_path)
        await takeover.take_over()
    last = await both.sender()
    assert await last.obey(await last.fetch(1)) == ["poison"]
    await both.check_balance(blast)


async def test_a_damaged_journal_stops_no_other_takeover(both: World, tmp_path: Path) -> None:
    """G7: neither the reaping of its own sender nor the takeover from another one."""
    await both.given(20)
    damaged, dead = await ended(both, tmp_path), await ended(both, tmp_path)
    damaged.path.write_bytes(damaged.path.read_bytes().replace(b"{email}:jobs", b"\xff\xffmail}:jobs"))
    (tmp_path / "aaa{email}.journal").mkdir()
    _, takeover, reaper = await another(both, tmp_path)
    await takeover.take_over()
    await lapse(both, dead.sender)
    await lapse(both, damaged.sender)
    taken = {one.sender_id: one.in_flight for one in await reaper.reap_dead()}
    assert taken == {damaged.sender.name: 5, dead.sender.name: 0}


async def test_the_last_begin_of_a_dead_sender_is_taken_over_too(both: World, tmp_path: Path) -> None:
    """G2: it may arrive after the takeover looked; what it begins was not handed over."""
    blast = await both.given(5)
    dead = await both.sender()
    leases = await dead.fetch(5)
    Journal(tmp_path, Owner(dead.name, both.partition.keys.tag), 10).close(keep=True)
    sender, takeover, _ = await another(both, tmp_path)
    list_held = Consumer.list_held

    async def begins_meanwhile(consumer: Consumer, kind: str) -> list[HeldEntry]:
        found = await list_held(consumer, kind)
        if kind == "tx":
            await dead.begin(leases)
        return found

    with patch.object(Consumer, "list_held", begins_meanwhile):
        await takeover.take_over()
    await lapse(both, dead)
    await takeover.take_over()
    assert Counter(lease.attempt for lease in await sender.fetch(5)) == {1: 5}
    await both.check_balance(blast)
