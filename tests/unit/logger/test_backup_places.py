"""Backups go only into the data folder or the backup folder, whatever the path."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.logger.backup import BackupRefusedError, place_of


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Return a backup folder and a data folder, next to other folders."""
    for name in ("backups", "data", "data/sub", "data/redis", "data/spool", "elsewhere", "data-of-others"):
        (tmp_path / name).mkdir()
    return tmp_path / "backups", tmp_path / "data"


def test_a_bare_name_is_in_the_first_folder(places: tuple[Path, Path]) -> None:
    """That is KURIR_BACKUP_DIR if it is set, else the data folder."""
    backups, data = places
    assert place_of("b.db", places) == backups / "b.db"
    assert place_of("b.db", (data,)) == data / "b.db"


def test_a_path_within_a_folder_is_accepted(places: tuple[Path, Path]) -> None:
    """This includes subfolders and paths with `..` that end inside."""
    backups, data = places
    assert place_of(f"{data}/b.db", places) == data / "b.db"
    assert place_of(f"{data}/sub/b.db", places) == data / "sub" / "b.db"
    assert place_of(f"{data}/sub/../b.db", places) == data / "b.db"
    assert place_of(f"{backups}/b.db", places) == backups / "b.db"


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "sub/b.db", "../b.db", "{data}/..", "{data}/../elsewhere/b.db", "{data}-of-others/b.db", "/b.db",
     "/etc/cron.d/b", "/proc/self/cwd/b.db", "{data}/missing/../../elsewhere/b.db", "{data}/b\0.db", "~/b.db",
     "{data}/redis/b.db", "{data}/spool/b.db", "{data}/secret", "{data}/internal_secret", "{data}/redis_password",
     "{data}/redis.conf", "{data}/logs.db-wal", "{data}/logs.db-shm", "{data}/kurir.lock", "{data}/sub/../redis/b.db",
     "x" * 300, "{data}/" + "x/" * 2500 + "b.db"],
)  # fmt: skip
def test_any_other_path_is_refused(places: tuple[Path, Path], path: str) -> None:
    """Paths outside the folders and the names of the system's own files raise BackupRefusedError."""
    with pytest.raises(BackupRefusedError):
        place_of(path.format(data=places[1]), places)


def test_links_out_of_a_folder_are_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    """A link to an outside folder and a link as the file are refused; the data folder itself may be a link."""
    _, data = places
    (data / "out").symlink_to(tmp_path / "elsewhere")
    (data / "link.db").symlink_to(tmp_path / "elsewhere" / "target.db")
    for path in (f"{data}/out/b.db", f"{data}/link.db"):
        with pytest.raises(BackupRefusedError):
            place_of(path, places)
    (tmp_path / "alias").symlink_to(data)
    assert place_of(f"{tmp_path}/alias/b.db", (tmp_path / "alias",)) == data / "b.db"
