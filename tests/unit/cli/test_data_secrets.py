"""The secrets of a data folder: what is said where they cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from services.cli.data_secrets import make_secrets


def test_a_full_disk_names_the_file_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start ended with "cannot write None", and each try left an empty file."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        make_secrets(tmp_path)
    assert raised.value.filename == str(tmp_path / "secret")
    assert list(tmp_path.iterdir()) == []
