"""Template files in other encodings: refused with their name and advice, or read as valid text."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ingest.templates.files import read_templates
from shared.errors import SettingsError

_TEMPLATE = 'id: t\nname: "%s"\nchannels: [email]\nsubject: s\ntext: t\nvariables: []\n'


@pytest.mark.parametrize("charset", ["latin-1", "cp1252"])
def test_file_that_is_not_utf8_is_refused(charset: str, tmp_path: Path) -> None:
    """The file is named and nothing starts, since a wrong guess at its encoding would reach every recipient."""
    (tmp_path / "t.yaml").write_bytes((_TEMPLATE % "für").encode(charset))
    with pytest.raises(SettingsError, match=r"t\.yaml: the file is not UTF-8, save it as UTF-8"):
        read_templates(tmp_path, "ID")


@pytest.mark.parametrize(
    ("written", "read"), [(r"\ud83d\ude00", "😀"), (r"a\ud800", "a\ufffd"), ("für", "für"), (r"f\xfcr", "für")]
)
def test_escapes_become_valid_text(written: str, read: str, tmp_path: Path) -> None:
    """YAML escapes may name half a surrogate pair, which is replaced; a whole pair is one character, as in JSON."""
    (tmp_path / "t.yaml").write_text(_TEMPLATE % written, encoding="utf-8-sig")
    assert read_templates(tmp_path, "ID")["t"].template.name == read
