"""Receipts: ranks, the token of a return path, our own Message-IDs, and how they are packed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import EventBatch, Receipts, SystemEvent, pack_batch, unpack_batch, unpack_known
from shared.queue.receipts import batch_name
from shared.receipts import (
    RETURN_PREFIX,
    Receipt,
    delivery_rank,
    job_of_message_id,
    make_return_token,
    read_return_token,
)

JOB = "0k3v9xq2mzt81abc:1234567:email"
SECRET = "a secret that signs in tests"


def test_receipts_rank_by_channel() -> None:
    """A WhatsApp failure yields to a delivery, a bounce outranks one, and other kinds never become `delivery`."""
    assert [delivery_rank("whatsapp", kind) for kind in ("undelivered", "delivered", "read")] == [1, 2, 3]
    assert [delivery_rank("email", kind) for kind in ("delivered", "bounced", "complained")] == [1, 2, 3]
    assert {delivery_rank("email", "read"), delivery_rank("whatsapp", "opted_out"), delivery_rank("sms", "read")} == {0}


@given(st.integers(0, 9_999_999_999), st.sampled_from(["email", "whatsapp"]))
def test_a_token_names_its_job_whatever_happens_to_its_case(index: int, channel: str) -> None:
    """The token is read back in any case, and fits into a local part of 64 octets with its prefix."""
    job_id = f"0k3v9xq2mzt81abc:{index}:{channel}"
    if len(job_id) > 33:
        job_id = f"0k3v9xq2mzt81abc:{index % 100_000}:{channel}"
    token = make_return_token(job_id, SECRET)
    assert len(RETURN_PREFIX + token) <= 64
    assert token == token.lower()
    assert {read_return_token(one, SECRET) for one in (token, token.upper(), token.title())} == {job_id}


@given(st.text(max_size=70))
def test_foreign_tokens_name_no_job(token: str) -> None:
    """Any other text is no token: of any length, with any characters."""
    assert read_return_token(token, SECRET) == ""


def test_a_changed_token_names_no_job() -> None:
    """A token with a character changed or cut is refused, and so is one of another secret."""
    token = make_return_token(JOB, SECRET)
    changed = [token[:at] + ("a" if token[at] != "a" else "b") + token[at + 1 :] for at in range(len(token) - 1)]
    for other in (*changed, token[:-2], token + "aa", make_return_token(JOB, SECRET + "!")):
        assert read_return_token(other, SECRET) == "", other


@pytest.mark.parametrize(("job_id", "secret"), [("b" * 34, SECRET), (JOB, "")])
def test_what_cannot_be_signed_is_an_error(job_id: str, secret: str) -> None:
    """A job id that does not fit and an empty secret raise ValueError."""
    with pytest.raises(ValueError, match=r"fit|secret"):
        make_return_token(job_id, secret)


@pytest.mark.parametrize(
    ("message_id", "found"),
    [
        ("0k3v9xq2mzt81abc.7.email.1@example.com", ("0k3v9xq2mzt81abc:7:email", 1)),
        (" <0k3v9xq2mzt81abc.7.email.12@mail.example.com>\r\n", ("0k3v9xq2mzt81abc:7:email", 12)),
        ("<a-b.0.email.3@xn--bcher-kva.example>", ("a-b:0:email", 3)),
        ("<a.7.email.0@example.com>", None),
        ("<a.7.email@example.com>", None),
        ("<x.a.7.email.1@example.com>", None),
        ("<a.\u0667.email.1@example.com>", None),
        ("<CAF+x=y_z@mail.gmail.com>", None),
        ("<a.7.email.1@example.com> <b.7.email.1@example.com>", None),
        ("", None),
        pytest.param(f"a.{'7' * 5000}.email.1@example.com", None, id="more digits than int() reads"),
    ],
)
def test_our_own_message_ids_name_a_job_and_its_run(message_id: str, found: tuple[str, int] | None) -> None:
    """The id is read with or without brackets; an id of any other form names no job."""
    assert job_of_message_id(message_id) == found


def test_receipts_survive_packing() -> None:
    """A batch is read back as it was; fields at their defaults take no room."""
    receipt = Receipt(
        "bounced", "ses", 1_700_000_000.5, JOB, severity="hard", code="5.1.1", words="Ünbekannt", trusted=True
    )
    batch = EventBatch("receipts/email", 1, [Receipts([receipt, Receipt("read", "meta", 1.0)], 5)])
    assert unpack_batch(pack_batch(batch)) == batch
    assert len(msgspec.msgpack.encode(Receipt("read", "meta", 1.0))) < 40


def test_a_version_that_does_not_know_receipts_keeps_the_rest_of_a_batch() -> None:
    """An event of an unknown kind is left out of the events that are applied, and never makes the others unreadable.

    The logger then stores the whole entry in `undecodable_events`.
    """
    known = SystemEvent(1, "info", "x", "receipts", {})
    later = [["receipts_of_a_later_version", [["delivered"]], 5], msgspec.to_builtins(known)]
    raw = msgspec.msgpack.encode(["receipts/email", 7, later])
    with pytest.raises(ValueError, match="cannot decode event batch"):
        unpack_batch(raw)
    assert unpack_known(raw) == EventBatch("receipts/email", 7, [known])


@given(st.integers(0, 2**42 - 1), st.integers(0, 2**40), st.integers(0, 2**42 - 1), st.integers(0, 2**40))
def test_every_entry_has_a_name_of_its_own(ms: int, number: int, other_ms: int, other: int) -> None:
    """Two entries never share producer and sequence, which fits into 63 bits; names rise with time."""
    one, two = batch_name("email", f"{ms}-{number}"), batch_name("email", f"{other_ms}-{other}")
    assert (one == two) == ((ms, number) == (other_ms, other))
    assert 0 <= one[1] < 2**63
    assert batch_name("whatsapp", f"{ms}-{number}") != one
