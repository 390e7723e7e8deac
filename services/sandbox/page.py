"""The page's files: one document, one module, one style sheet, read at startup; and the policies they are sent with.

The paths of the module and the style sheet contain a digest, so that browsers may keep them until they change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_TYPES = {"mailbox.js": "text/javascript", "mailbox.css": "text/css"}

# The page loads its own files and nothing else; its frame shows only what the sandbox itself serves.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A mail has no origin, runs nothing and loads nothing: pictures of its own come as data.
MAIL_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'self'"
)
FILE_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class PageFiles:
    """The page as it is served; `files` are its module and its style sheet, by name, with their types."""

    version: str
    document: str
    files: Mapping[str, tuple[str, bytes]]


def read_page(folder: Path = _FOLDER) -> PageFiles:
    """Read the page's files."""
    files = {name: (content_type, (folder / name).read_bytes()) for name, content_type in _TYPES.items()}
    version = hashlib.sha256(b"\0".join(content for _, content in files.values())).hexdigest()[:12]
    document = (folder / "mailbox.html").read_text(encoding="utf-8").replace("__VERSION__", version)
    return PageFiles(version, document, files)
