"""Recipients are masked in whatever text they occur, and nothing else is."""

from __future__ import annotations

import time

import pytest

from shared.recipient_masks import masked, masked_address, masked_text, without_recipient


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("550 5.1.1 <ana.b@example.com>: unknown", "550 5.1.1 <a***@example.com>: unknown"),
        ("sent to ana@example.com,budi@example.org", "sent to a***@example.com,b***@example.org"),
        ("/api/logs?recipient=ana%40example.com", "/api/logs?recipient=a***%40example.com"),
        ('"wa_id":"6281234567890"', '"wa_id":"***90"'),
        ("call 0812-2477-0000 or +62 812 2477 1111", "call ***00 or ***11"),
        ("(0812) 24770000", "***00"),
        ("wamid.HBgNNjI4MTIzNDU2Nzg5MBUC=", "wamid.***"),
        ("at 2026-11-29 10:00, from 203.0.113.250", "at 2026-11-29 10:00, from 203.0.113.250"),
        ("6atxp4nexk8xcmb7 v1.2.3 12:30", "6atxp4nexk8xcmb7 v1.2.3 12:30"),
        ("@here, see x @ y", "@here, see x @ y"),
    ],
)  # fmt: skip
def test_addresses_and_numbers_are_masked_in_texts(text: str, shown: str) -> None:
    """In any notation; times, addresses of the internet, ids and versions stay. Masking twice changes nothing."""
    assert masked_text(text) == shown
    assert masked_text(shown) == shown


def test_a_row_is_masked_as_a_whole() -> None:
    """What a row says of its recipient is found in the row's other texts; ids, times and numbers stay."""
    row = {
        "job_id": "628123456789:0:email", "recipient_email": "ana.b@example.com", "recipient_name": "Ana Silva",
        "subject": "Hello Silva", "history": [{"response": "no mailbox ANA.B here", "attempt": 1}],
        "message_id": "<b.0.email.1@example.com>", "created_at": "2026-11-29T10:00:00Z", "duration_ms": 123456789,
    }  # fmt: skip
    assert masked({"logs": [row], "nextCursor": "eyJhZnRlciI6MTIzNDU2Nzg5MH0"}) == {
        "logs": [
            row | {
                "recipient_email": "a***@example.com", "recipient_name": "A***", "subject": "Hello ***",
                "history": [{"response": "no mailbox *** here", "attempt": 1}],
            }
        ],
        "nextCursor": "eyJhZnRlciI6MTIzNDU2Nzg5MH0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("<Ana.B@example.com>: no such user ANA.B", "ana.b@example.com", "<<recipient>>: no such user <recipient>"),
        ("see https://x.example/?rcpt=ana.b%40example.com", "ana.b@example.com", "see https://x.example/?rcpt=<recipient>"),
        ("banana.bread@example.com, an, ana", "an@example.com", "banana.bread@example.com, an, ana"),
        ("131026 for +62 812-3456-7890", "6281234567890", "131026 for <recipient>"),
        ("(0812) 3456 7890 is not on WhatsApp", "6281234567890", "<recipient> is not on WhatsApp"),
        ("call +62 812-9999-0000, 550 5.1.1", "6281234567890", "call +62 812-9999-0000, 550 5.1.1"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_a_recipient_is_hidden_in_whatever_form_it_is_quoted(text: str, address: str, shown: str) -> None:
    """A local part of two letters is a word as well, so it is hidden in its address alone."""
    assert without_recipient(text, address) == shown


def test_a_whole_address_is_masked_whatever_its_form() -> None:
    """A short number, which a text would keep, is a recipient here."""
    assert [masked_address(one) for one in ("628", "ana@x", "")] == ["***28", "a***@x", ""]


def test_a_long_text_takes_linear_time() -> None:
    """Providers and clients choose the texts."""
    began = time.process_time()
    for one in ("w" * 10**5 + "@", "1" * 10**5 + "@", "1 " * 10**5, "(" * 10**5, "a@" * 10**5, "%40" * 10**5):
        masked_text(one)
        without_recipient(one, "628123456789")
        without_recipient(one, "a@example.com")
    # if it were quadratic: minutes
    assert time.process_time() - began < 5
