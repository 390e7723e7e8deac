"""Find phrases that make a reader stop: `python scripts/check_prose.py [file ...]`.

Each entry of `TICS` is a pattern and its replacement. The check covers code, comments, docstrings, messages, tests and
documents. It finds phrases across line breaks and comment signs, and exits with 1 if there are any. The names of tests
are read as sentences, which must not have the words of `NAME_TICS` either.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = (
    ".ci", ".github", "benchmarks", "deploy", "docs", "examples", "scripts", "services", "shared", "templates", "tests",
    "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "README.md", "docker-compose.yml", "hatch_build.py",
    "pyproject.toml",
)  # fmt: skip
SUFFIXES = {".css", ".html", ".js", ".lua", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ".example", ""}
# files that quote the phrases: this list and its test
EXEMPT = {"scripts/check_prose.py", "tests/unit/packaging/test_prose.py"}
# folders of generated files and of other projects' packages
FOREIGN = {"__pycache__", ".cache", "node_modules"}

TICS: dict[str, str] = {
    r"bears?|(?:is|are|be) borne by": "has, carries",
    r"tells? (?:of|that)|told of": "reports, says",
    r"say (?:whether|how many|how much|how long)": "Return whether, Return how many (docstrings)",
    r"(?:is|are) (?-i:none)(?: (?:of|that|which))?": "is not one of, is unknown, does not exist",
    r"so (?:many|long)(?! (?:as|that|,))": "that many, the number, as long",
    r"of late|anew|thereby|wherein|whereof|thereof": "recently, again, or rephrase",
    r"who(?:ever|soever|mever)": "the one who, or rephrase",
    r"stands? (?:in|under|twice|there)(?! for)": "is in, is listed under",
    r"goes (?:on|by)|go by": "continues, uses",
    r"comes to(?! (?:an end|mind))": "becomes, reaches",
    r"no (?:more|less|fewer|later|sooner) than": "at most, at least, by",
    r"not one of (?:them|these|those)|nor one": "none of, or two sentences",
    r"(?:this|that|it) can no longer be": "say what already happened: 'This blast has already finished.'",
    r"it is (?!not )\w+ (?:who|which)": "subject first: 'X does Y'",
    r"in which every|for which every": "rephrase",
    r"for ever": "forever, or a bound",
    r"what became of": "the outcome of",
}

# a name has no context that would make these words clear
NAME_TICS: dict[str, str] = {
    r"tells?|told": "reports, is reported, is returned",
    r"looks?|looked": "check, sample, search",
    r"mend(?:s|ed)?": "repair",
    r"(?:is|are) no(?! (?:longer|reason))": "is not a",
}
_TEST_NAME = re.compile(r"\bdef test_(\w+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """A phrase that was found: its file, its first line, its words, and what to write instead."""

    path: str
    line: int
    words: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.words!r}: write {self.instead}"


def _pattern(tic: str) -> re.Pattern[str]:
    """Compile a tic whose spaces also match line breaks and comment signs."""
    return re.compile(r"(?<![\w-])(?:" + tic.replace(" ", r"(?:\s|[#>*]|--)+") + r")(?![\w-])", re.IGNORECASE)


_PATTERNS = tuple((_pattern(tic), instead) for tic, instead in TICS.items())
_NAME_PATTERNS = (*_PATTERNS, *((_pattern(tic), instead) for tic, instead in NAME_TICS.items()))


def findings(path: str, text: str) -> Iterator[Finding]:
    """Yield each tic in a text, in the order of the list."""
    for pattern, instead in _PATTERNS:
        for match in pattern.finditer(text):
            words = " ".join(re.sub(r"(?:\s|[#>*]|--)+", " ", match[0]).split())
            yield Finding(path, text.count("\n", 0, match.start()) + 1, words, instead)
    for name in _TEST_NAME.finditer(text):
        sentence = name[1].replace("_", " ")
        for pattern, instead in _NAME_PATTERNS:
            if match := pattern.search(sentence):
                yield Finding(path, text.count("\n", 0, name.start()) + 1, f"test_{name[1]}: {match[0]}", instead)


def files(root: Path) -> Iterator[Path]:
    """Yield the files to check below `root`, in order."""
    for place in PLACES:
        found: Iterable[Path] = [root / place] if (root / place).is_file() else sorted((root / place).rglob("*"))
        for path in found:
            if path.is_file() and path.suffix in SUFFIXES and FOREIGN.isdisjoint(path.relative_to(root).parts):
                yield path


def main(arguments: Sequence[str]) -> int:
    """Check the given files, or all; print the findings; return the exit code."""
    paths = [Path(argument).resolve() for argument in arguments] or list(files(ROOT))
    found = [
        finding
        for path in paths
        if (name := path.relative_to(ROOT).as_posix()) not in EXEMPT
        for finding in findings(name, path.read_text("utf-8", errors="replace"))
    ]
    for finding in sorted(found, key=lambda one: (one.path, one.line)):
        print(finding)
    if found:
        print(f"{len(found)} phrases to rewrite in {len({one.path for one in found})} files", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
