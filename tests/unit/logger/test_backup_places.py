"""Where a backup may go: into the data folder or the backup folder, by no trick anywhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.logger.backup import BackupRefusedError, place_of


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A backup folder and a data folder, beside a folder that is neither."""
    for name in ("backups", "data", "data/sub", "data/redis", "data/spool", "elsewhere", "data-of-others"):
        (tmp_path / name).mkdir()
    return tmp_path / "backups", tmp_path / "data"


def test_a_bare_name_goes_into_the_first_place(places: tuple[Path, Path]) -> None:
    """KURIR_BACKUP_DIR where it is set, else the data folder."""
    backups, data = places
    assert place_of("b.db", places) == backups / "b.db"
    assert place_of("b.db", (data,)) == data / "b.db"


def test_a_path_within_a_place_is_taken(places: tuple[Path, Path]) -> None:
    """Also by a way round that ends there, and in a folder below."""
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
    """With words that name the folders where a backup may go, or say why the file is not free."""
    with pytest.raises(BackupRefusedError):
        place_of(path.format(data=places[1]), places)


def test_links_lead_nowhere(places: tuple[Path, Path], tmp_path: Path) -> None:
    """A link to a folder outside, a link as the file itself, and a data folder that is a link itself."""
    _, data = places
    (data / "out").symlink_to(tmp_path / "elsewhere")
    (data / "link.db").symlink_to(tmp_path / "elsewhere" / "target.db")
    for path in (f"{data}/out/b.db", f"{data}/link.db"):
        with pytest.raises(BackupRefusedError):
            place_of(path, places)
    (tmp_path / "alias").symlink_to(data)
    assert place_of(f"{tmp_path}/alias/b.db", (tmp_path / "alias",)) == data / "b.db"
