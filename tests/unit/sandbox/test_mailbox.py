"""The file of accepted messages."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from services.sandbox.mailbox import Mailbox, Message
from shared.errors import SettingsError


def message(to: str) -> Message:
    return Message("email", to, "b:0:email", "<m@example.com>", "Grüße\n“”")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_message(tmp_path: Path) -> None:
    """Each line has the fields that tests count by, and is in the file when `accept` returns."""
    path = tmp_path / "sandbox" / "delivered.ndjson"
    mailbox = Mailbox(path, keep=10, keep_bytes=1_000_000)
    mailbox.accept([message("a@example.com"), message("b@example.com")])
    found = lines(path)
    assert [line["to"] for line in found] == ["a@example.com", "b@example.com"]
    assert set(found[0]) == {"at_ms", "channel", "to", "jobId", "messageId", "subject"}
    mailbox.close()


def test_a_torn_line_is_cut_off_at_the_start(tmp_path: Path) -> None:
    """An incomplete line left by a power loss does not corrupt the next one; complete lines stay."""
    path = tmp_path / "delivered.ndjson"
    path.write_bytes(b'{"to":"a"}\n{"to":"b')
    mailbox = Mailbox(path, keep=10, keep_bytes=1_000_000)
    mailbox.accept([message("c@example.com")])
    assert [line["to"] for line in lines(path)] == ["a", "c@example.com"]
    mailbox.close()


def test_only_the_last_messages_are_listed(tmp_path: Path) -> None:
    """The list is bounded, the file is not, and numbering continues."""
    path = tmp_path / "delivered.ndjson"
    mailbox = Mailbox(path, keep=2, keep_bytes=1_000_000)
    for number in range(5):
        mailbox.accept([message(f"r{number}@example.com")])
    assert [kept.number for kept in mailbox.newest()] == [5, 4]
    assert mailbox.find(1) is None
    assert (mailbox.count, len(lines(path))) == (5, 5)
    mailbox.clear()
    assert (mailbox.count, lines(path)) == (0, [])
    mailbox.accept([message("new@example.com")])
    assert [kept.number for kept in mailbox.newest()] == [6]  # an old number never means a new message
    mailbox.close()


def sized(to: str, source: bytes) -> Message:
    return Message("email", to, "", "", "", source=source)


def numbers(mailbox: Mailbox) -> list[int]:
    return [kept.number for kept in mailbox.newest()]


def test_kept_bytes_are_bounded(tmp_path: Path) -> None:
    """The oldest messages make room for new ones; of a large message only the beginning is kept."""
    mailbox = Mailbox(tmp_path / "delivered.ndjson", keep=100, keep_bytes=4000)
    for number in range(6):
        mailbox.accept([sized("a@example.com", bytes([65 + number]) * 900)])
    assert numbers(mailbox) == [6, 5, 4, 3]
    mailbox.accept([sized("big@example.com", b"b" * 50_000)])
    kept = mailbox.find(7)
    assert kept is not None
    assert (kept.size, len(kept.message.source)) == (50_000, 1000)
    assert mailbox.kept_bytes <= 4000
    mailbox.close()


def test_recipients_share_one_source(tmp_path: Path) -> None:
    """A mail to many counts once, until the last of its copies is gone."""
    mailbox = Mailbox(tmp_path / "delivered.ndjson", keep=100, keep_bytes=4000)
    source = b"x" * 2000
    mailbox.accept([sized(f"r{number}@example.com", source) for number in range(20)])
    assert len(numbers(mailbox)) == 20
    assert mailbox.kept_bytes == 1000
    for number in numbers(mailbox)[1:]:
        mailbox.delete(number)
    assert (mailbox.kept_bytes, numbers(mailbox)) == (1000, [20])
    assert mailbox.delete(20)
    assert not mailbox.delete(20)
    assert mailbox.kept_bytes == 0
    mailbox.close()


def test_fields_have_a_bounded_length(tmp_path: Path) -> None:
    """A subject of a megabyte neither fills the memory nor makes a line longer than a torn one may be."""
    path = tmp_path / "delivered.ndjson"
    mailbox = Mailbox(path, keep=10, keep_bytes=4000)
    mailbox.accept([Message("email", "a@example.com", "j" * 5000, "m" * 5000, "s" * 1_000_000)])
    (line,) = lines(path)
    assert [len(str(line[name])) for name in ("jobId", "messageId", "subject")] == [1000, 1000, 1000]
    kept = next(mailbox.newest())
    assert len(kept.message.subject) == 1000
    mailbox.close()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial write is undone and reported."""
    path = tmp_path / "delivered.ndjson"
    mailbox = Mailbox(path, keep=10, keep_bytes=1_000_000)
    mailbox.accept([message("a@example.com")])

    real_write = os.write
    monkeypatch.setattr("services.sandbox.mailbox.os.write", lambda fd, data: real_write(fd, data[:7]))
    with pytest.raises(OSError, match="only partly written"):
        mailbox.accept([message("b@example.com")])
    monkeypatch.undo()
    assert [line["to"] for line in lines(path)] == ["a@example.com"]
    mailbox.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """The error names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="delivered"):
        Mailbox(tmp_path / "file" / "delivered.ndjson", keep=1, keep_bytes=1_000_000)
