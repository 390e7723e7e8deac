"""The parts of the two passes: spool, duplicates, ids, mailboxes, values, problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.blasts.addresses import read_mailbox
from services.ingest.blasts.duplicates import Duplicates
from services.ingest.blasts.recipient_checker import RecipientChecker
from services.ingest.blasts.recipients import Accepted, Rules
from services.ingest.blasts.spool import Spool
from services.ingest.blasts.submission import new_blast_id
from services.ingest.blasts.variables import ValueProblem, check_of
from services.ingest.http.decoding import problems_of
from services.ingest.http.errors import Problem
from services.ingest.http.requests import BlastRequest
from shared.jobs import Attachment
from shared.templates import Template, Variable, VariableType


def test_a_spool_returns_its_recipients_in_order(tmp_path: Path) -> None:
    """Recipients come back in order, any number of times, from memory and disk; large ones make small blocks."""
    spool = Spool(tmp_path)
    heavy = [Attachment("a", "text/plain", b"x" * 400_000)]
    took = [Accepted(n, f"N{n}", ["a@example.com", ""], {"n": n}, "r", heavy if n > 400 else []) for n in range(420)]
    for one in took:
        spool.add(one)
    for _ in range(2):
        blocks = list(spool.blocks())
        assert [one for block in blocks for one in block] == took
        assert max(sum(len(file.content) for one in block for file in one.attachments) for block in blocks) < 2_000_000
    spool.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abcdefgh")), max_size=40), st.integers(1, 10))
def test_duplicates_are_found_in_memory_and_on_disk(pairs: list[tuple[int, str]], in_memory: int) -> None:
    """Every position that repeats an earlier address of its channel is found, in memory and on disk."""
    duplicates = Duplicates(Path("/tmp"), in_memory)
    expected = set()
    for position, pair in enumerate(pairs):
        duplicates.add(position, *pair)
        if pair in pairs[:position]:
            expected.add(position)
    found = duplicates.positions()
    assert {position for position in range(len(pairs)) if position in found} == expected
    assert len(found) == len(expected)
    duplicates.close()


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    """Ids have sixteen letters and digits; a later millisecond sorts later."""
    ids = [new_blast_id(1_790_000_000_000 + number) for number in range(100)]
    assert ids == sorted(ids)
    assert len({new_blast_id(1_790_000_000_000) for _ in range(1000)}) == 1000
    assert {len(one) for one in ids} == {16}


@pytest.mark.parametrize(
    "text", ["", "Ann", "Ann <>", "a@example.com, b@example.com", "A\r\nB <a@example.com>", "<a@b> c"]
)
def test_text_that_is_not_one_mailbox_is_refused(text: str) -> None:
    """Above all, two mailboxes and line breaks are refused."""
    assert isinstance(read_mailbox(text, "from"), Problem)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (" ", "REQUIRED"),
        ("A\tB <a@example.com>", "INVALID_CHARACTERS"),
        ("Shop, Inc <a@example.com>", "INVALID_EMAIL"),
        (f"{'x' * 201} <a@example.com>", "TOO_LONG"),
    ],
)
def test_the_problem_of_a_mailbox_has_a_code(text: str, code: str) -> None:
    """The field is named, and the code says what is wrong with it."""
    problem = read_mailbox(text, "from")
    assert isinstance(problem, Problem)
    assert (problem.field, problem.code) == ("from", code)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("number", ["1", "-2.50", 3, 2**70, "1.234,5"], ["1e5", "one", True, 10**31, float("inf"), "1.234"]),
        ("date", ["2026-01-31", "2026-01-31T10:00:00Z"], ["31.01.2026", "2026-02-30", 5]),
        ("url", ["https://example.com/a?b=c"], ["javascript:alert(1)", "//x", "https://", "https://a b"]),
        ("email", ["a@example.com"], ["a", 5]),
        ("phone", ["0812 3456 7890"], ["x", 5]),
        ("string", ["a\nb", 5, True], ["\x00", {"a": 1}, ["a"], "x" * 70_000]),
    ],
)
def test_values_fit_their_declared_types(kind: VariableType, good: list[Any], bad: list[Any]) -> None:
    """Numbers in strings become numbers; values of the wrong type are refused with a code."""
    check = check_of(Variable("v", kind), "ID")
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueProblem):
            check(value)


VARIABLES = [Variable("code"), Variable("opt", required=False)]
TEMPLATE = Template("t", "T", ["email", "whatsapp"], subject="{{ name }}", text="{{ code }}", variables=VARIABLES)


def _checked(raw: bytes, *channels: str, permissive: bool = False) -> Any:
    return RecipientChecker(Rules(TEMPLATE, channels, {}, "ID", permissive)).check_json(raw, 7)


def test_all_problems_of_a_recipient_are_reported() -> None:
    """Each problem has its path."""
    checked = _checked(b'{"name": "A\\nB", "email": "x", "phone": "y", "variables": {}, "age": 5}', "email")
    assert [(one.field, one.code) for one in checked.problems] == [("recipients[7].age", "UNKNOWN_FIELD")]
    checked = _checked(b'{"name": "A\\nB", "email": "x", "phone": "y", "variables": {}}', "email", "whatsapp")
    assert {(one.field, one.code) for one in checked.problems} == {
        ("recipients[7].name", "INVALID_CHARACTERS"),
        ("recipients[7].email", "INVALID_EMAIL"),
        ("recipients[7].phone", "INVALID_PHONE"),
        ("recipients[7].variables.code", "MISSING_REQUIRED_VARIABLE"),
    }
    assert checked.accepted is None


def test_unused_variables_are_not_stored() -> None:
    """Unknown variables are dropped, since they would only cost memory; addresses are in normal form."""
    raw = b'{"name": "Ann", "email": "A@EXAMPLE.com", "variables": {"code": 5, "opt": null, "other": "x"}}'
    accepted = _checked(raw, "email").accepted
    assert (accepted.variables, accepted.addresses) == ({"code": 5}, ["A@example.com"])


def test_each_field_is_checked_separately() -> None:
    """The answer has every problem, although msgspec stops at the first."""
    value = {"channels": "email", "templateId": 5, "priority": 9, "x": 1, "recipients": []}
    found = {(one.field, one.code) for one in problems_of(value, BlastRequest)}
    assert found == {
        ("channels", "INVALID_TYPE"),
        ("templateId", "INVALID_TYPE"),
        ("priority", "INVALID_VALUE"),
        ("x", "UNKNOWN_FIELD"),
    }
