"""Makes docs/configuration.md: what each service reads from its environment, in the words of env.example.

The facts (defaults, bounds, who reads it) are recorded while the services' own `read_settings` run; the sentences are
the comments of env.example, which therefore has to name every variable, and no other.

python deploy/make_configuration.py            write the file
python deploy/make_configuration.py --check    exit 1 where the file is not what this would write
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.cli.api_client import DEFAULT_URL, api_key
from services.email_sender.settings import read_settings as read_email_sender
from services.ingest.settings import read_settings as read_ingest
from services.logger.settings import read_settings as read_logger
from services.sandbox.settings import read_settings as read_sandbox
from services.whatsapp_sender.settings import read_settings as read_whatsapp_sender
from shared.errors import SettingsError
from shared.settings import INTERNAL_SECRET, EnvReader

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "deploy" / "env.example"
TARGET = ROOT / "docs" / "configuration.md"

# defaults that follow from something else
_DEFAULTS = {
    "KURIR_EMAIL_DOMAINS": "the domain of `KURIR_EMAIL_FROM`",
    "KURIR_LOG_DIR": "`logs` in `KURIR_DATA_DIR`",
    "KURIR_EMAIL_RETURN_PATH": "the address of From",
    "KURIR_SMTP_HELO": "the machine's full name, else that of `KURIR_PUBLIC_URL`; `[127.0.0.1]` for local servers",
}
_HEAD = """# Configuration

<!-- Made by deploy/make_configuration.py (`make docs`) from the services' settings and deploy/env.example. -->

Every service reads its settings from its environment when it starts, reports everything that is wrong with them at
once, and exits with 2. An empty value counts as unset.

- Each `NAME` may be given as `NAME_FILE` instead: the path of a file that holds the value. Do that for secrets.
- A duration is a number with `ms`, `s`, `m`, `h` or `d`; a plain number is seconds.
- A rate is a number per duration, such as `10/1s` or `1000/1m`; `off` is none.
- A list is separated by commas.

`deploy/env.example` has the same variables as a file to start from.
"""


def read_command(env: Mapping[str, str]) -> str:
    """Read what the command `kurir` asks for when it calls the API."""
    EnvReader(env).text("KURIR_URL", DEFAULT_URL)
    EnvReader(env).text(INTERNAL_SECRET, "")
    return api_key(env)


READERS: Mapping[str, Callable[[Mapping[str, str]], object]] = {
    "ingest": read_ingest,
    "email_sender": read_email_sender,
    "whatsapp_sender": read_whatsapp_sender,
    "logger": read_logger,
    "sandbox": read_sandbox,
    "kurir": read_command,
}


@dataclass(frozen=True, slots=True)
class Question:
    """One call of an EnvReader: `default` None means required."""

    name: str
    kind: str
    default: object
    bounds: str


@dataclass(slots=True)
class Variable:
    """One variable as the services ask for it: their questions, by service."""

    name: str
    asked: dict[str, Question] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """One variable of env.example: the heading it stands under, its comment, and its value."""

    heading: str
    comment: str
    value: str
    commented_out: bool


def variables() -> dict[str, Variable]:
    """Return every variable that any service asks for, by name."""
    found: dict[str, Variable] = {}
    for service, read_settings in READERS.items():
        with _recording() as questions, suppress(SettingsError):
            read_settings({})
        for question in questions:
            found.setdefault(question.name, Variable(question.name)).asked[service] = question
    return found


@contextmanager
def _recording() -> Iterator[list[Question]]:
    """Note what is asked of any EnvReader while the block runs."""
    questions: list[Question] = []
    kinds = ("text", "path", "integer", "seconds", "flag", "rate", "items", "choice")
    originals = {kind: getattr(EnvReader, kind) for kind in kinds}
    for kind, original in originals.items():
        setattr(EnvReader, kind, _recorder(kind, original, questions))
    try:
        yield questions
    finally:
        for kind, original in originals.items():
            setattr(EnvReader, kind, original)


def _recorder(kind: str, original: Callable[..., Any], questions: list[Question]) -> Callable[..., Any]:
    def ask(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs)
        given.apply_defaults()
        asked = given.arguments
        questions.append(Question(asked["name"], kind, asked["default"], _bounds(asked)))
        return original(*args, **kwargs)

    return ask


def _bounds(asked: Mapping[str, Any]) -> str:
    if "options" in asked:
        return ", ".join(f"`{option}`" for option in asked["options"])
    least, most = asked.get("minimum"), asked.get("maximum")
    if least is not None and most is not None:
        return f"{least} to {most}"
    return f"from {least}" if least is not None else ""


def examples(text: str) -> dict[str, Example]:
    """Read env.example: `## heading`, then comment lines, then `NAME=value` or `#NAME=value`."""
    found: dict[str, Example] = {}
    heading, comment = "", list[str]()
    for line in text.splitlines():
        match = re.fullmatch(r"(#?)([A-Z][A-Z0-9_]*)=(.*)", line)
        if match:
            found[match[2]] = Example(heading, " ".join(comment), match[3], bool(match[1]))
            comment = []
        elif line.startswith("## "):
            heading, comment = line.removeprefix("## "), []
        elif line.startswith("# "):
            comment.append(line.removeprefix("# "))
        else:
            comment = []
    return found


def document() -> str:
    """Return the text of docs/configuration.md."""
    asked = variables()
    known = {name: example for name, example in examples(EXAMPLE.read_text("utf-8")).items() if name in asked}
    lines = [_HEAD]
    for heading in dict.fromkeys(example.heading for example in known.values()):
        lines += [
            f"## {heading}",
            "",
            "| variable | what it is | default | values | read by |",
            "| --- | --- | --- | --- | --- |",
        ]
        rows = [(name, example.comment) for name, example in known.items() if example.heading == heading]
        lines += [_row(asked[name], comment) for name, comment in rows]
        lines.append("")
    return "\n".join(lines)


def _row(variable: Variable, comment: str) -> str:
    questions = list(variable.asked.values())
    values = next((question.bounds for question in questions if question.bounds), "")
    kind = {"seconds": "a duration", "rate": "a rate", "items": "a list", "flag": "`yes`, `no`"}.get(
        questions[0].kind, ""
    )
    cells = (f"`{variable.name}`", comment, _default(variable), values or kind, ", ".join(variable.asked))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _default(variable: Variable) -> str:
    if variable.name in _DEFAULTS:
        return _DEFAULTS[variable.name]
    needed = [service for service, question in variable.asked.items() if question.default is None]
    if needed:
        return f"required by {', '.join(needed)}"
    defaults = {service: shown(question) for service, question in variable.asked.items()}
    if len(set(defaults.values())) > 1:
        return ", ".join(f"{service} {text}" for service, text in defaults.items())
    (text,) = set(defaults.values())
    return text


def shown(question: Question) -> str:
    """Return a default as people write it, in code quotes; "" for an empty one."""
    default = question.default
    if question.kind == "flag":
        return "`yes`" if default else "`no`"
    if question.kind == "seconds" and isinstance(default, float):
        return f"`{_duration(default)}`"
    return f"`{default}`" if default != "" else ""


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g}m" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:g}s"


def main(arguments: list[str]) -> int:
    """Write the document, or say whether it is what would be written."""
    text = document()
    if "--check" in arguments:
        if not TARGET.exists() or TARGET.read_text("utf-8") != text:
            sys.stderr.write(f"{TARGET.relative_to(ROOT)} is stale: run make docs\n")
            return 1
        return 0
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
