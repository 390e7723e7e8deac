"""Backup: a consistent copy of the database, made in steps while the logger keeps writing.

One transaction reads the copy, so writes during the backup neither appear in it nor restart it. The copy gets its name
only when it is complete and synced to disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from shared.errors import KurirError

_PAGES_A_STEP = 1024
_REST_S = 0.002
# other files and folders in a data folder
_IN_USE = frozenset({"redis", "redis.conf", "spool", "secret", "internal_secret", "redis_password", "kurir.lock"})
_DATABASE_FILES = ("logs.db-", "logs.db.")
# ".partial" is added while the copy is made
_LONGEST_NAME, _LONGEST_PATH = 240, 4000
_HEADER = b"SQLite format 3\x00"


class BackupError(KurirError):
    """The backup failed; the message says why."""


class BackupRefusedError(BackupError):
    """The path is not allowed for a backup; the message says why."""


class _AbandonedError(KurirError):
    """The caller no longer waits for the copy."""


def place_of(path: str, places: Sequence[Path]) -> Path:
    """Return the path of a backup: a bare file name goes into the first of `places`, a path must be within one of them.

    The folder's real path counts, so neither `..` nor a symbolic link can lead outside. The file must not be a link, or
    a file or folder that the running system uses. Raises BackupRefusedError.
    """
    wanted = Path(path)
    if not path or "\0" in path or wanted.name in {"", "..", "."}:
        raise BackupRefusedError("the path does not name a file")
    if len(os.fsencode(wanted.name)) > _LONGEST_NAME or len(os.fsencode(path)) > _LONGEST_PATH:
        raise BackupRefusedError("the path is too long")
    allowed = [place.resolve() for place in places]
    target = allowed[0] / wanted if wanted.parent == Path() and not wanted.is_absolute() else wanted
    if not target.is_absolute():
        raise BackupRefusedError("the path must be absolute, or only a file name")
    folder = Path(os.path.realpath(target.parent))
    if not any(folder.is_relative_to(place) for place in allowed):
        where = " or ".join(map(str, allowed))
        raise BackupRefusedError(f"backups are allowed only in {where}; set KURIR_BACKUP_DIR to use another folder")
    target = folder / target.name
    within = next(target.relative_to(place) for place in reversed(allowed) if folder.is_relative_to(place))
    if within.parts[0] in _IN_USE or target.name.startswith(_DATABASE_FILES) or target.is_symlink():
        raise BackupRefusedError(f"{target} is a symbolic link, or belongs to the running system; choose another name")
    return target


def write_backup(database: Path, target: Path, is_abandoned: Callable[[], bool] = lambda: False) -> int:
    """Copy the database to `target` and return the copy's size in bytes; blocks, so call it on a thread.

    Replaces an older backup at `target`, but no other file. Stops soon after `is_abandoned` returns True. Raises
    BackupError.
    """
    return write_file(target, lambda partial: _copy(database, partial, is_abandoned), database)


def write_file(target: Path, write: Callable[[Path], None], database: Path | None = None) -> int:
    """Let `write` make a file that then gets its name, and return its size; only the owner can read it.

    Replaces an older backup at `target`, but no other file and not `database`. Raises BackupError.
    """
    _check_target(database, target)
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        write(partial)
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
        return target.stat().st_size
    except (OSError, sqlite3.Error, KurirError) as error:
        partial.unlink(missing_ok=True)
        raise BackupError(f"the backup failed: {error}") from error


def _check_target(database: Path | None, target: Path) -> None:
    if not target.is_absolute():
        raise BackupError("the path must be absolute")
    if not target.parent.is_dir():
        raise BackupError(f"{target.parent} is not a folder")
    if target.is_dir():
        raise BackupError(f"{target} is a folder")
    if not target.exists():
        return
    with target.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:
            raise BackupError(f"{target} exists and is not a backup")
    if database is not None and target.samefile(database):
        raise BackupError(f"{target} is the database itself")


def _copy(database: Path, partial: Path, is_abandoned: Callable[[], bool]) -> None:
    """Copy in steps."""

    def go_on(_status: int, _remaining: int, _total: int) -> None:
        if is_abandoned():
            raise _AbandonedError("the logger was stopped")

    source = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    with closing(source), closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        source.execute("BEGIN")
        # the transaction begins with its first read
        version = source.execute("PRAGMA user_version").fetchone()
        pages = source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        source.backup(copy, pages=_PAGES_A_STEP, progress=go_on, sleep=_REST_S)
        source.execute("COMMIT")
        copied = (
            copy.execute("PRAGMA user_version").fetchone(),
            copy.execute("SELECT count(*) FROM sqlite_schema").fetchone(),
        )
        if copied != (version, pages):
            raise sqlite3.DatabaseError("the copy is incomplete")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
