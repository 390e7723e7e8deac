"""The console's files: vendored libraries are npm's own, all is small, and nothing refers to another host."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.ingest.console.files import read_console_files

STATIC = Path(__file__).resolve().parents[4] / "services" / "ingest" / "console" / "static"
VENDOR = STATIC / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())
_OWN_BYTES, _LIBRARY_BYTES = 40 * 1024, 45 * 1024


@pytest.mark.parametrize("row", MANIFEST, ids=lambda row: row["file"])
def test_a_library_is_npms_file_but_for_the_changes_it_names(row: dict[str, Any]) -> None:
    """With its changes undone, a file has the SHA-256 of the one in the package; version and licence are recorded."""
    content = (VENDOR / row["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == row["sha256"]
    text = content.decode()
    for old, new in reversed(row["changes"]):
        if new:
            assert text.count(new) == 1
            text = text.replace(new, old)
        else:
            text = text.removesuffix("\n") + old + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == row["sha256OfSource"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", row["version"])
    assert row["licence"] in {"MIT", "Apache-2.0"}
    assert (VENDOR / f"{row['package']}.LICENSE").stat().st_size > 1000


def test_every_vendored_file_is_in_the_manifest() -> None:
    """No file can be added without its origin."""
    files = {path.name for path in VENDOR.iterdir() if path.suffix in {".js", ".css"}}
    assert files == {row["file"] for row in MANIFEST}


def test_the_console_is_small() -> None:
    """Own code takes at most 40 KB and libraries 45 KB when compressed; so does all as it is sent, file by file."""
    console = read_console_files()
    own = [one for name, one in console.files.items() if not name.startswith("vendor/")]
    own += [console.index, console.frame]
    libraries = [one for name, one in console.files.items() if name.startswith("vendor/")]
    together = [len(gzip.compress(b"".join(one.plain for one in part), 9)) for part in (own, libraries)]
    sent = sum(len(one.gzipped) for one in (*own, *libraries))
    shown = f"own {together[0]}, libraries {together[1]}, sent {sent}"
    assert together[0] <= _OWN_BYTES, shown
    assert together[1] <= _LIBRARY_BYTES, shown
    assert sent <= _OWN_BYTES + _LIBRARY_BYTES, shown


def test_no_file_refers_to_another_host() -> None:
    """Own files name no URL but namespaces, so nothing can be loaded from elsewhere."""
    found = {
        (path.name, url)
        for path in STATIC.rglob("*")
        if path.suffix in {".js", ".css", ".html", ".svg"} and path.parent != VENDOR
        for url in re.findall(r"https?://[^\s\"'`)]+", path.read_text())
    }
    assert {one for one in found if "www.w3.org" not in one[1] and "example.com" not in one[1]} == set()


def test_pages_have_no_inline_script_or_style() -> None:
    """The page's policy would block them; the frame has one script, which its policy names by its hash."""
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page) == []
    assert len(re.findall(r"<script>", (STATIC / "frame.html").read_text())) == 1


def test_a_change_of_any_file_changes_all_paths(tmp_path: Path) -> None:
    """Modules of two versions never meet in one page."""
    for name in ("index.html", "frame.html"):
        (tmp_path / name).write_text((STATIC / name).read_text())
    (tmp_path / "app.js").write_text("1")
    before = read_console_files(tmp_path)
    (tmp_path / "app.js").write_text("2")
    after = read_console_files(tmp_path)
    assert before.version != after.version
    assert f"/console/static/{after.version}/app.js".encode() in after.index.plain
    assert gzip.decompress(after.index.gzipped) == after.index.plain


def test_code_is_sent_without_the_line_ends_that_mean_nothing(tmp_path: Path) -> None:
    """Line ends stay between statements without a mark, and within a text."""
    for name in ("index.html", "frame.html"):
        (tmp_path / name).write_text((STATIC / name).read_text())
    code = (
        "const a = {\n  b: (d) => d && 1,\n};\n// why\nconst c = html`<p>one\n  two</p>\n  <p>${a}\n  ${a}</p>`\nf()\n"
    )
    (tmp_path / "app.js").write_text(code)
    sent = read_console_files(tmp_path).files["app.js"].plain
    assert sent == b"const a={b: (d)=>d&&1,};const c=html`<p>one\ntwo</p><p>${a}${a}</p>`\nf()"
