"""The session in docs/api.md: run its commands in sequence in one shell, and compare or write the answers.

python -m tests.e2e.api_session URL     # write the answers of a fresh, running system into docs/api.md
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.ingest.http.errors import ERROR_CODES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"
_BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)
_CODES = re.compile(r"(<!-- codes: [^>]*-->\n).*?(<!-- end of codes -->)", re.DOTALL)
_BEGIN, _END = "\x01", "\x02"
# what differs from run to run
_VOLATILE = [
    (re.compile(r"\b[0-9a-hjkmnp-tv-z]{16}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r'("(?:durationMs|duration_ms|response_time_ms)": ?)\d+'), r"\g<1>0"),
    (re.compile(r"accepted as \d+"), "accepted as 1"),
]


@dataclass(frozen=True, slots=True)
class Step:
    """A command on the page and its answer there."""

    command: str
    answer: str


def read_steps(text: str) -> list[Step]:
    """Return every step of a page, in order."""
    return [step for block in _BLOCK.findall(text) for step in _steps(block)]


def _steps(block: str) -> list[Step]:
    pieces = [f"$ {piece}" for piece in ("\n" + block).split("\n$ ")[1:]]
    return [_step(piece.removeprefix("$ ").rstrip("\n").split("\n")) for piece in pieces]


def _step(lines: list[str]) -> Step:
    """Split a command from its answer: a command ends when its quotes are closed, a here-document at END."""
    length = next((n for n in range(1, len(lines) + 1) if _is_complete(lines[:n])), len(lines))
    return Step("\n".join(lines[:length]), "\n".join(lines[length:]))


def _is_complete(lines: Sequence[str]) -> bool:
    if "<<'END'" in lines[0]:
        return lines[-1] == "END"
    return "\n".join(lines).count("'") % 2 == 0


def run_steps(steps: Sequence[Step], url: str, folder: Path) -> list[str]:
    """Run the commands in one shell and return the output of each; they create their files in `folder`."""
    (folder / "examples").symlink_to(ROOT / "examples")
    script = ["set -u", "exec 2>&1"]
    for step in steps:
        command = re.sub(r"^KURIR=.*", f"KURIR={url}", step.command)
        script += [f"printf '{_BEGIN}'", command, f"printf '{_END}'"]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=folder, capture_output=True, text=True, timeout=90, check=False
    )
    answers = re.findall(f"{_BEGIN}(.*?){_END}", done.stdout, re.DOTALL)
    assert len(answers) == len(steps), done.stdout[-2000:]
    return [answer.rstrip("\n") for answer in answers]


def steady(answer: str) -> str:
    """Return an answer without the parts that differ from run to run."""
    for pattern, stand_in in _VOLATILE:
        answer = pattern.sub(stand_in, answer)
    return answer


def code_table() -> str:
    """Return the table of error codes as the page shows it."""
    rows = [f"| `{code}` | {row.status} | {row.meaning} |" for code, row in ERROR_CODES.items()]
    return "\n".join(["| code | status | meaning |", "| --- | --- | --- |", *rows, ""])


def written_codes(text: str) -> str:
    """Return a page with the current table of error codes."""
    return _CODES.sub(lambda found: f"{found[1]}\n{code_table()}\n{found[2]}", text)


def written_answers(text: str, answers: Sequence[str]) -> str:
    """Return a page with these answers."""
    left = list(answers)

    def block(found: re.Match[str]) -> str:
        lines = []
        for step in _steps(found[1]):
            answer = left.pop(0)
            lines.append(f"$ {step.command}" + (f"\n{answer}" if answer else ""))
        return "```console\n" + "\n".join(lines) + "\n```\n"

    return _BLOCK.sub(block, text)


def main() -> None:
    """Update the page."""
    text = PAGE.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        answers = run_steps(read_steps(text), sys.argv[1], Path(folder))
    PAGE.write_text(written_codes(written_answers(text, answers)), "utf-8")


if __name__ == "__main__":
    main()
