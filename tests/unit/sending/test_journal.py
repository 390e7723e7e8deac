"""The journal of a sender: what it says after its sender has ended, and what it never says."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from shared.sending.journal import EVENT_BYTES, Journal, Left, LeftJournal, Owner

OWNER = Owner("email-h-1-a", "{email}")


def left_by(journal: Journal) -> Left | None:
    """Read a journal as another process would."""
    with LeftJournal(journal.path) as found:
        return found.read()


def said(*, accepted: dict[str, bytes] | None = None, taken: Iterable[str] = (), owner: Owner = OWNER) -> Left:
    """Make what a journal says."""
    return Left(owner, accepted or {}, frozenset(taken))


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    """An entry that was taken, one that was accepted with its event, and one refused; freed slots say nothing."""
    journal = Journal(tmp_path / "new" / "folder", OWNER, 4)
    journal.take("s 1-0")
    journal.accept(journal.take("s 2-0"), b"\x01event")
    journal.free(journal.take("s 3-0"))
    journal.refuse(journal.take("s 4-0"))
    assert left_by(journal) == said(accepted={"s 2-0": b"\x01event"}, taken=["s 1-0"])
    journal.close(keep=False)
    assert not journal.path.exists()


def test_a_slot_is_used_again_without_its_former_acceptance(tmp_path: Path) -> None:
    """A job taken in the slot of an accepted one is not taken for accepted."""
    journal = Journal(tmp_path, OWNER, 1)
    for number in range(3):
        slot = journal.take(f"s {number}-0")
        assert left_by(journal) == said(taken=[f"s {number}-0"])
        journal.accept(slot, b"yes")
        journal.free(slot)
    journal.take("s")
    assert left_by(journal) == said(taken=["s"])


@pytest.mark.parametrize(
    ("keys", "slots"), [(["a", "b"], 1), (["k" * 2000], 4), (["é" * 600], 4)], ids=["full", "long", "long in bytes"]
)
def test_nothing_is_read_from_an_incomplete_journal(tmp_path: Path, keys: list[str], slots: int) -> None:
    """G2: a job that has no room must never be taken for one that was not handed over."""
    journal = Journal(tmp_path, OWNER, slots)
    for key in keys:
        slot = journal.take(key)
    assert not journal.complete
    journal.accept(slot, b"yes")
    journal.refuse(slot)
    journal.free(slot)
    assert left_by(journal) is None


def test_an_event_without_room_leaves_the_job_uncertain(tmp_path: Path) -> None:
    """An acceptance that does not fit is not noted; the longest that fits has room beside the longest key."""
    journal = Journal(tmp_path, OWNER, 2)
    journal.accept(journal.take("s 1-0"), b"x" * (EVENT_BYTES + 1))
    longest = "k" * 1019
    journal.accept(journal.take(longest), b"y" * EVENT_BYTES)
    assert journal.complete
    assert left_by(journal) == said(accepted={longest: b"y" * EVENT_BYTES}, taken=["s 1-0"])


def test_nothing_is_read_after_a_reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G2: after a loss of the machine the file may be older than the last hand-overs, so it counts for nothing."""
    journal = Journal(tmp_path, OWNER, 2)
    journal.take("s 1-0")
    assert left_by(journal) is not None
    later = tmp_path / "boot"
    later.write_text("another\n")
    monkeypatch.setattr("shared.sending.journal._BOOT", later)
    assert left_by(journal) is None


_HEADS = [b"", b"kurir", b"kurirJ1\0", b"kurirJ1\0\0", b"kurirJ1\0\0\xff\xff", b"kurirJ1\0\0\x02\0[]"]


@pytest.mark.parametrize("raw", [*_HEADS, b"\xff" * 9000])
def test_nothing_is_read_from_other_files(tmp_path: Path, raw: bytes) -> None:
    """Foreign bytes in the folder harm nobody."""
    path = tmp_path / "x.journal"
    path.write_bytes(raw)
    with LeftJournal(path) as found:
        assert found.read() is None


def test_nothing_is_read_from_a_damaged_journal(tmp_path: Path) -> None:
    """A key that is not text, a length beyond the slot, an unknown state: nothing of such a file is believed."""
    journal = Journal(tmp_path, OWNER, 3)
    journal.take("s 1-0")
    whole = journal.path.read_bytes()
    at = whole.index(b"s 1-0")
    for place, damage in [(at, b"s \xff-0"), (at - 4, b"\xff\xff"), (at - 2, b"\xff\xff"), (at - 5, b"\x09")]:
        assert left_by(journal) == said(taken=["s 1-0"])
        journal.path.write_bytes(whole[:place] + damage + whole[place + len(damage) :])
        assert left_by(journal) is None, (place - at, damage)
        journal.path.write_bytes(whole)


def test_only_the_end_of_its_sender_frees_a_journal(tmp_path: Path) -> None:
    """A living or stopped process keeps its lock; after kill -9 the notes are complete and the lock is free."""
    code = (
        "import signal; from pathlib import Path; from shared.sending.journal import Journal, Owner\n"
        f"journal = Journal(Path({str(tmp_path)!r}), Owner('s', '{{email}}'), 9)\n"
        "journal.accept(journal.take('a'), b'yes'); journal.take('b'); print('ready', flush=True)\n"
        "signal.pause()"
    )
    path = tmp_path / "s{email}.journal"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        with child.stdout:
            assert child.stdout.readline() == b"ready\n"
        with LeftJournal(path) as found:
            assert not found.owner_is_gone()
        child.send_signal(signal.SIGSTOP)
        with LeftJournal(path) as found:
            assert not found.owner_is_gone()
    finally:
        child.kill()
        child.wait()
    with LeftJournal(path) as found:
        assert found.owner_is_gone()
        assert found.read() == said(accepted={"a": b"yes"}, taken=["b"], owner=Owner("s", "{email}"))
        with LeftJournal(path) as other:
            assert not other.owner_is_gone(), "two processes would take over at once"


def test_two_senders_with_one_name_do_not_share_a_journal(tmp_path: Path) -> None:
    """The second cannot open the file while it is being made, and takes nothing from the first."""
    (tmp_path / "email-h-1-a{email}.new").touch()
    with pytest.raises(FileExistsError):
        Journal(tmp_path, OWNER, 1)


def test_a_full_disk_is_noticed_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page has its place on the disk, so no later note can end the process (SIGBUS); without room it raises."""
    journal = Journal(tmp_path, OWNER, 100)
    found = journal.path.stat()
    assert found.st_blocks * 512 >= found.st_size > 100_000
    journal.close(keep=False)

    def is_full(*_place: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", is_full)
    with pytest.raises(OSError, match="No space left"):
        Journal(tmp_path, OWNER, 100)
    assert not list(tmp_path.iterdir())
