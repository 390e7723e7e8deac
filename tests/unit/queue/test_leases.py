"""The values that Python and the scripts exchange."""

from __future__ import annotations

import msgspec
import pytest

from shared.jobs import legible_job_id, unpack_job
from shared.queue.leases import Grant, awaiting, deferred, given_back, parse_grant, shelved
from tests.unit.sending.leases import lease_of


@pytest.mark.parametrize(
    ("word", "grant"),
    [
        ("g", Grant("granted")),
        ("G", Grant("alone")),
        ("s1500", Grant("granted", after_us=1500, spaced="channel")),
        ("S0", Grant("alone", spaced="channel")),
        ("o20", Grant("granted", after_us=20, spaced="own")),
        ("O0", Grant("alone", spaced="own")),
        ("limited900", Grant("limited", after_us=900)),
        ("beyond", Grant("beyond", limit="gmail.com 54000 1 n")),
        ("full", Grant("full")),
        ("suppressed", Grant("suppressed")),
        ("sent", Grant("sent")),
        ("lost", Grant("lost")),
    ],
)
def test_each_answer_of_begin_is_read(word: str, grant: Grant) -> None:
    """No answer is mistaken for another with the same beginning."""
    assert parse_grant(word, "gmail.com 54000 1 n") == grant


def test_rewritten_jobs_fold_their_attempts_in() -> None:
    """A job that moves to another entry keeps its attempts, and no start that an earlier version booked."""
    lease = lease_of(deliveries=2, attempts=1, unused_ms=7)
    assert lease.attempt == 3
    assert unpack_job(deferred(lease, b"", 1, 5).packed).attempts == 2
    assert unpack_job(deferred(lease, b"", 1, 5).packed).unused_ms == 0
    assert unpack_job(awaiting(lease, "gmail.com 54000 1 n").packed).attempts == 2
    assert unpack_job(shelved(lease).packed).attempts == 2
    assert given_back(lease).value == "1 r"


@pytest.mark.parametrize(
    ("value", "job_id"),
    [(["b", 3, "email", "?"], "b:3:email"), (["b", "3", "email"], ""), (["b:c", 3, "email"], ""), ({"b": 3}, "")],
)
def test_the_id_of_a_broken_job_is_read_if_legible(value: object, job_id: str) -> None:
    """The id is kept if the first bytes are intact, so that the job's row can be closed."""
    assert legible_job_id(msgspec.msgpack.encode(value)) == job_id
    assert legible_job_id(b"\xc1") == ""
