"""The console's files, read and compressed once at startup.

The path of every file contains a digest of all of them, so that browsers may keep a file, and a new version is
loaded as a whole: modules of two versions never meet in one page. Only these files are served; a path is a key of a
dictionary, never a path of the file system.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_INDEX, _FRAME = "index.html", "frame.html"
_VERSION_LENGTH = 12
_STYLE_SPACES = re.compile(rb"(:)\s+|\s*;?\s*(\})\s*|\s*([{;,])\s*")
# htm itself drops the line ends beside tags and values
_LINE_ENDS = re.compile(rb"([,;{(])\n|([>}])\n(?=<|\$\{)")
_CODE_SPACES = re.compile(rb" (=|=>|===|!==|&&|\|\||\?\?) ")


@dataclass(frozen=True, slots=True)
class ConsoleFile:
    """A file as it is served, plain and compressed."""

    content_type: str
    plain: bytes
    gzipped: bytes


@dataclass(frozen=True, slots=True)
class ConsoleFiles:
    """All files of the console; `version` is the digest that their paths contain.

    `frame` is the document that shows the HTML of mails, and `frame_script` the source expression of its one script.
    """

    version: str
    index: ConsoleFile
    frame: ConsoleFile
    frame_script: str
    files: Mapping[str, ConsoleFile]


def read_console_files(folder: Path = _FOLDER) -> ConsoleFiles:
    """Read the files of the console."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _KINDS)
    named = {(name := path.relative_to(folder).as_posix()): _lean(name, path.read_bytes()) for path in paths}
    index, frame = (_lean(name, (folder / name).read_bytes()) for name in (_INDEX, _FRAME))
    version = _digest([index, *(part for name, content in named.items() for part in (name.encode(), content))])
    files = {name: _file(_KINDS[Path(name).suffix], content) for name, content in named.items()}
    return ConsoleFiles(
        version=version,
        index=_file("text/html", _complete(index, version, named)),
        frame=_file("text/html", frame),
        frame_script=_script_of(frame),
        files=files,
    )


def _lean(name: str, content: bytes) -> bytes:
    """Return one of our own files without what browsers need not load: indentation, lines of comment, spaces in styles
    and beside operators that no text contains.

    No statement or text in them depends on how a line begins, or on a line's end after one of the marks, and no text of
    a style on spaces beside its marks. A library stays as its package has it.
    """
    if name.startswith("vendor/") or not name.endswith((".js", ".css", ".html")):
        return content
    lines = (line.strip() for line in content.splitlines())
    lean = b"\n".join(line for line in lines if line and not line.startswith((b"//", b"/*", b"* ", b"*/")))
    if name.endswith(".js"):
        return _CODE_SPACES.sub(rb"\1", _LINE_ENDS.sub(lambda mark: mark[1] or mark[2], lean))
    return _STYLE_SPACES.sub(lambda mark: mark[1] or mark[2] or mark[3], lean) if name.endswith(".css") else lean


def _complete(index: bytes, version: str, names: Mapping[str, bytes]) -> bytes:
    """Return the page with its version, and with a hint for each module: the browser fetches them all at once."""
    hints = [
        f'<link rel="modulepreload" href="/console/static/{version}/{name}">' for name in names if name.endswith(".js")
    ]
    text = index.decode().replace("__VERSION__", version)
    return text.replace("<!-- modules -->", "\n".join(hints)).encode()


def _script_of(document: bytes) -> str:
    (script,) = re.findall(rb"<script>(.*?)</script>", document, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def _digest(parts: list[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()[:_VERSION_LENGTH]


def _file(content_type: str, content: bytes) -> ConsoleFile:
    # without a time stamp the same files give the same bytes on every machine
    return ConsoleFile(content_type, content, gzip.compress(content, 9, mtime=0))
