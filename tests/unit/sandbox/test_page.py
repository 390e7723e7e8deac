"""The page's files and policies: nothing comes from elsewhere, and no text is ever made into markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.sandbox import page
from services.sandbox.page import FILE_POLICY, MAIL_POLICY, PAGE_POLICY, read_page

STATIC = Path(page.__file__).parent / "static"


def test_the_page_names_its_files_by_their_digest() -> None:
    """Both files are under the version, and nothing else is loaded."""
    found = read_page()
    links = re.findall(r'(?:src|href)="([^"]+)"', found.document)
    assert set(links) - {"data:,", "/messages"} == {f"/static/{found.version}/{name}" for name in found.files}


def test_a_changed_file_changes_the_paths(tmp_path: Path) -> None:
    """Browsers keep a file for a year, so a new one must have a new path."""
    for path in STATIC.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = read_page(tmp_path).version
    (tmp_path / "mailbox.js").write_text("// new")
    assert read_page(tmp_path).version != before


@pytest.mark.parametrize("policy", [PAGE_POLICY, MAIL_POLICY, FILE_POLICY])
def test_no_policy_allows_another_host(policy: str) -> None:
    """Every directive is 'none', the sandbox itself, data, or the inline style of a mail."""
    directives = dict(one.strip().partition(" ")[::2] for one in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert "frame-ancestors" in directives
    allowed = {word for value in directives.values() for word in value.split()}
    assert allowed <= {"'none'", "'self'", "data:", "'unsafe-inline'"}


def test_a_mail_may_not_run_anything() -> None:
    """Its sandbox is empty, and no directive names a script."""
    assert MAIL_POLICY.startswith("sandbox;")
    assert "script-src" not in MAIL_POLICY
    assert "'unsafe-inline'" not in PAGE_POLICY


def test_the_module_makes_no_markup_of_text() -> None:
    """It never assigns HTML; `el` makes every element, and strings become text."""
    module = (STATIC / "mailbox.js").read_text()
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|srcdoc|eval\(|new Function", module) == []
