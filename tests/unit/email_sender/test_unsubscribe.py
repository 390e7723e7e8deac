"""The token of an unsubscribe link."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.unsubscribe import make_token, read_token

ADDRESSES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(ADDRESSES)
def test_token_says_whom_it_is_for(address: str) -> None:
    """A token yields the channel and address that it was made of, and fits a URL's path unchanged."""
    token = make_token("secret", "email", address)
    assert read_token("secret", token) == ("email", address)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize("token", ["", "a", "é", "AAAA", "=", "A" * 22, "a b", "A" * 400, "../health"])
def test_text_that_is_not_a_token_is_refused(token: str) -> None:
    """For any other text in the URL the result is None, never an error."""
    assert read_token("secret", token) is None


def test_changed_token_is_refused() -> None:
    """Another secret, or any changed bit, makes a token invalid."""
    token = make_token("secret", "email", "ana@example.com")
    assert read_token("other", token) is None
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert read_token("secret", base64.urlsafe_b64encode(changed).rstrip(b"=").decode()) is None


def test_empty_secret_signs_nothing() -> None:
    """Without a secret no token is made, since anyone could forge it."""
    with pytest.raises(ValueError, match="empty secret"):
        make_token("", "email", "ana@example.com")
