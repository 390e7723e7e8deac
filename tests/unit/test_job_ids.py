"""Job ids: which texts are one."""

from __future__ import annotations

import pytest

from shared.jobs import JobId, is_job_id, parse_job_id


@pytest.mark.parametrize(
    ("text", "parts"), [("6atx:7:email", ("6atx", 7, "email")), ("b 1:007:é\n", ("b 1", 7, "é\n"))]
)
def test_a_job_id_is_split_into_its_parts(text: str, parts: tuple[str, int, str]) -> None:
    """The blast, the index and the channel; the first and the last may have any characters but colons."""
    assert parse_job_id(text) == JobId(*parts)
    assert is_job_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a:1", ":1:email", "a::email", "a:1:", "a:1:b:c", "a:-1:b",
        "a:+1:b", "a: 1:b", "a:1_0:b", "a:x:b", "a:\u0663:b", f"a:{'9' * 19}:b", f"a:{'9' * 5000}:b",
    ],
)  # fmt: skip
def test_no_other_text_is_split(text: str) -> None:
    """Python refuses to read a number of more than 4,300 digits, so that a path with one was answered with 500."""
    assert parse_job_id(text) is None
    assert not is_job_id(text)
