"""Configuration: env.example and docs/configuration.md list exactly the variables that the code reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.make_configuration import EXAMPLE, TARGET, document, examples, shown, variables
from shared.settings import parse_seconds

ROOT = Path(__file__).resolve().parents[3]
KNOWN = variables()
EXAMPLES = examples(EXAMPLE.read_text("utf-8"))
COMPOSE_HEADING = "docker-compose.yml only"
# derived from other values, or different for each service
_FOLLOWING = {"KURIR_LOG_DIR", "KURIR_JOURNAL_DIR", "KURIR_PORT", "KURIR_SMTP_HELO", "KURIR_EMAIL_RETURN_PATH"}


def test_the_example_names_every_variable() -> None:
    """Every variable that a service reads is in env.example, and every variable there is read."""
    ours = {name for name, example in EXAMPLES.items() if example.heading != COMPOSE_HEADING}
    assert ours == set(KNOWN)


def test_every_variable_is_read_through_the_reader() -> None:
    """Every KURIR_ name in the code is a known variable, the file of one, or a channel's."""
    literals: set[str] = set()
    for source in (*ROOT.glob("services/**/*.py"), *ROOT.glob("shared/**/*.py")):
        literals |= set(re.findall(r'"(KURIR_[A-Z0-9_]+)"', source.read_text()))
    known = set(KNOWN) | {f"{name}_FILE" for name in KNOWN}
    assert literals - known == {"KURIR_"} & literals


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_variable_has_one_comment(name: str) -> None:
    """It is one sentence with a full stop, on its own line."""
    assert re.fullmatch(r".{10,}\.", EXAMPLES[name].comment), EXAMPLES[name].comment
    assert EXAMPLE.read_text("utf-8").count(f"\n# {EXAMPLES[name].comment}\n") >= 1


@pytest.mark.parametrize("name", sorted(set(KNOWN) - _FOLLOWING))
def test_a_commented_out_value_is_the_default(name: str) -> None:
    """The value after a `#` is the code's default; required variables have none."""
    example = EXAMPLES[name]
    if not example.commented_out:
        return
    defaults = {question.default for question in KNOWN[name].asked.values()}
    (question, *_) = KNOWN[name].asked.values()
    if None in defaults or len(defaults) > 1:
        assert example.value == ""
    elif question.kind == "seconds":
        assert parse_seconds(example.value) == question.default
    else:
        assert example.value == shown(question).strip("`")


def test_compose_defaults_are_shown() -> None:
    """Variables that only docker-compose.yml reads are in the example with their defaults."""
    text = (ROOT / "docker-compose.yml").read_text()
    used = {name: default for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text) if name[:6] != "KURIR_"}
    used["KURIR_IMAGE"] = "kurir:latest"
    shown_there = {name: one.value for name, one in EXAMPLES.items() if one.heading == COMPOSE_HEADING}
    assert shown_there == used


def test_the_document_is_up_to_date() -> None:
    """docs/configuration.md matches the output of `make docs`."""
    assert TARGET.read_text("utf-8") == document(), "run make docs"


def test_the_document_names_services_and_defaults() -> None:
    """It takes readers and defaults from the code."""
    (row,) = [line for line in document().splitlines() if line.startswith("| `KURIR_SMTP_DATA_TIMEOUT`")]
    assert "`5m` | a duration | email_sender |" in row
    (row,) = [line for line in document().splitlines() if line.startswith("| `KURIR_PORT`")]
    assert "ingest `3000`" in row
    assert "logger `3030`" in row
