"""Templates as YAML: a plain number stays exact, and no other text becomes a number or a date."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from services.ingest.templates.files import read_templates
from shared.numbers import Number
from shared.rendering import compile_template, merge_variables
from shared.template_yaml import load_template
from tests.unit.rendering.test_rendering import Person

FILE = """
id: bill
name: Bill
channels: [email]
subject: "{{ amount }}"
text: "{{ amount }} {{ code }} {{ at }} {{ day }}"
variables:
  - {name: amount, type: number, default: 1915000.00, example: 12.50}
  - {name: code, default: 007}
  - {name: at, default: 12:30}
  - {name: day, type: date, default: 2026-02-01}
"""


@pytest.mark.parametrize(
    ("written", "value"),
    [("5", 5), ("-5", -5), ("007", "007"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("12:30", "12:30"), ("1e3", "1e3"),
     (".5", ".5"), (".inf", ".inf"), ("2026-02-01", "2026-02-01"), ("yes", True), ("~", None),
     ("12.50", Number("12.50"))],
)  # fmt: skip
def test_a_plain_scalar_has_its_obvious_type(written: str, value: object) -> None:
    """Octal numbers, base 60 and dates are not interpreted."""
    found = load_template(f"x: {written}")["x"]
    assert (found, type(found)) == (value, type(value))


def test_a_template_file_keeps_its_numbers(tmp_path: Path) -> None:
    """Its defaults are printed as written."""
    (tmp_path / "bill.yaml").write_text(FILE)
    template = read_templates(tmp_path, "ID")["bill"].template
    values = merge_variables(template, {}, Person())
    assert compile_template(template).render(values).text == "1915000.00 007 12:30 2026-02-01"


NESTED = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (NESTED, "its aliases repeat too many"),
        ("x: &c [*c]", "an alias is within what it stands for"),
        ("x: &c {a: {b: *c}}", "an alias is within what it stands for"),
        ("x: " + "[" * 1000, "nested too deep"),
        ("subject: {{ code }}", "in quotes"),
        ("5: x", "in quotes"),
        ("~: x", "in quotes"),
        ("yes: x", "in quotes"),
        ("x: !!bool abc", "'abc' is neither true nor false"),
        ('x: !!int ""', "'' cannot be a whole number"),
        ("x: " + "9" * 5000, "cannot be a whole number"),
        ("x: !!timestamp abc", "tag"),
        ("x: !!binary '*'", "tag"),
        ("x: !!set {a}", "tag"),
        ("subject: one\nhtml: two\nsubject: three", r"(?s)'subject' is given twice.*line 3"),
        ("x: [{type: text, 'type': number}]", "'type' is given twice"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_reason(content: str, words: str) -> None:
    """Some ended ingest with a traceback, nested aliases took all memory, and others had a reason of Python's."""
    with pytest.raises((yaml.YAMLError, ValueError), match=words):
        load_template(content)


def test_both_usual_endings_of_a_file_are_read(tmp_path: Path) -> None:
    """A template in a `.yml` file was not there, and nothing said so; files with other endings are left alone."""
    for name in ("one.yaml", "two.yml", "three.YML", "four.yaml.bak", "five.txt"):
        (tmp_path / name).write_text(FILE.replace("bill", name.partition(".")[0]))
    assert set(read_templates(tmp_path, "ID")) == {"one", "two", "three"}


def test_aliases_and_merges_are_read() -> None:
    """They are useful for variables that are alike; a lone surrogate becomes valid text."""
    found = load_template('a: &a {type: number}\nb: [{<<: *a, name: x}, *a]\nc: "\\ud800"\n')
    assert found["b"] == [{"type": "number", "name": "x"}, {"type": "number"}]
    assert found["c"] == "\ufffd"
    assert load_template("") is None
