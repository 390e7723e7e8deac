"""Sealed values can be opened only with the same secret, and stored texts do not show them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shared.blasts import Blast
from shared.jobs import Job, Recipient, pack_job, unpack_job
from shared.numbers import Number
from shared.rendering import RenderError, compile_template, job_values
from shared.sealing import SEALED, Seal, SealError, sensitive_names, without
from shared.templates import Template, Variable

SEAL = Seal("what all services know")
CODE = frozenset({"code"})


def test_sealed_values_open_only_with_the_same_secret() -> None:
    """Sealed values survive packing into a job; the same value is sealed differently each time."""
    values: dict[str, Any] = {"code": "482913", "minutes": 5}
    closed = SEAL.closed(values, CODE)
    assert closed["minutes"] == 5
    assert "code" not in closed
    job = unpack_job(pack_job(Job("b", 0, "email", "high", Recipient("s@example.com", "S", closed), 0)))
    assert b"482913" not in pack_job(job)
    assert Seal("what all services know").opened_job(job).recipient.variables == values
    assert SEAL.closed(values, CODE)[SEALED] != closed[SEALED]
    with pytest.raises(SealError, match="KURIR_INTERNAL_SECRET"):
        Seal("what another system knows").opened_job(job)


@pytest.mark.parametrize("broken", [b"", b"short", b"x" * 64, "text", None, 5])
def test_values_that_are_not_sealed_are_refused(broken: object) -> None:
    """Truncated or invalid bytes and other types raise SealError."""
    with pytest.raises(SealError):
        SEAL.opened({SEALED: broken})
    assert SEAL.secrets({SEALED: broken}) == []


def test_values_without_a_sensitive_one_are_left_alone() -> None:
    """Values without a sensitive name stay unchanged, and so does a blast without sealed values."""
    assert SEAL.closed({"a": 1}, CODE) == {"a": 1}
    blast = Blast("b", Template("t", "T", ["email"]), ["email"], "normal", 0, {"email": 1}, 1, variables={"a": 1})
    assert SEAL.opened_blast(blast) is blast
    sealed = msgspec.structs.replace(blast, variables=SEAL.closed({"code": 7, "a": 1}, CODE))
    assert SEAL.opened_blast(sealed).variables == {"code": 7, "a": 1}
    assert SEAL.secrets(sealed.variables) == ["7"]


@pytest.mark.parametrize(
    ("subject", "logged"),
    [
        ("{{ code }} is your code", "*** is your code"),
        ("{{ code | upper }} for {{ name }}", "*** for Siti"),
        ("{% if code %}{{ name }}: {{ code }}{% endif %}", "Siti: ***"),
        ("{% set x = code %}Your code {{ x }}", "Your code ***"),
        ("{{ code | number }} is your code", "{{ code | number }} is your code"),
        ("Hello {{ name }}", "Hello Siti"),
    ],
)
def test_the_logged_subject_shows_no_sensitive_value(subject: str, logged: str) -> None:
    """Stars replace the value whatever the template does with it; if stars cannot be rendered, the source is shown."""
    template = Template("t", "T", ["email"], subject=subject, text="x", variables=[Variable("code", sensitive=True)])
    compiled, values = compile_template(template), {"code": "482913", "name": "Siti", "email": "", "phone": ""}
    rendered = compiled.render(values).subject
    assert rendered != logged or "code" not in subject
    assert compiled.subject_for_log(values, rendered) == logged
    assert sensitive_names(template) == CODE


def test_a_providers_words_are_kept_without_the_values_they_quote() -> None:
    """Longer values are hidden within words too; short ones only as whole words, so that codes stay legible."""
    assert without('554 5.7.1 "482913 is your code" looks like spam', ["482913"]) == (
        '554 5.7.1 "*** is your code" looks like spam'
    )
    assert without('{"text":"code=482913"}', ["482913"]) == '{"text":"code=***"}'
    assert without("550 5.1.1 no such user 5", ["5"]) == "550 5.1.1 no such user ***"
    assert without("250 ok", []) == "250 ok"


def test_sealed_values_are_not_rendered() -> None:
    """A message without its code must not be sent, so code that forgets to open the values fails."""
    blast = Blast("b", Template("t", "T", ["email"]), ["email"], "normal", 0, {"email": 1}, 1)
    job = Job("b", 0, "email", "high", Recipient("s@example.com", "S", SEAL.closed({"code": "1"}, CODE)), 0)
    with pytest.raises(RenderError, match="sealed"):
        job_values(blast, job)
    assert job_values(blast, SEAL.opened_job(job))["code"] == "1"


def test_a_number_is_sealed_exactly_as_written() -> None:
    """Its written form reaches the message, and is among the values to hide."""
    closed = SEAL.closed({"code": Number("007.50")}, CODE)
    job = unpack_job(pack_job(Job("b", 0, "email", "high", Recipient("s@example.com", "S", closed), 0)))
    blast = Blast("b", Template("t", "T", ["email"]), ["email"], "normal", 0, {"email": 1}, 1)
    assert job_values(blast, SEAL.opened_job(job))["code"].written == "007.50"
    assert "007.50" in SEAL.secrets(job.recipient.variables)
