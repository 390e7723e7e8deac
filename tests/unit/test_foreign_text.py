"""Text from outside always becomes valid, and legible if possible."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DeferredError, PermanentError, SendError, StopChannelError, TransientError, UncertainError
from shared.foreign_text import LONGEST_WORDS, decoded, legible, valid, valid_value
from shared.sending.provider import Receipt


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("250 angenommen für Siti", "latin-1"),
        ("451 4.3.0 später", "latin-1"),
        ("ÜBERGRÖßE, ÄÖÜ", "latin-1"),
        ("refusé: déçu à Noël", "latin-1"),
        ("can’t deliver “it” – don’t ask", "cp1252"),
        ("535 Error: 请使用", "gbk"),
        ("535 Error: 请使用授权码登录。详情请看: http://service.mail.qq.com/", "gbk"),
        ("550 5.1.1 ユーザーが見つかりません", "shift_jis"),
        ("535 認証失敗", "shift_jis"),
        ("550 ユーザー名が違います", "euc_jp"),
        ("später für 请使用 ユーザー", "utf-8"),
        ("später für 请使用", "utf-8-sig"),
        ("später für 请使用", "utf-16"),
        ("plain", "ascii"),
    ],
)
def test_text_is_decoded_by_its_likely_charset(text: str, charset: str) -> None:
    """Charsets that western, Chinese and Japanese mail servers still use are recognised, and Unicode encodings."""
    assert decoded(text.encode(charset)) == text


def test_a_byte_order_mark_does_not_hide_that_the_rest_is_foreign() -> None:
    """The mark is removed even if the rest is not UTF-8."""
    assert decoded(b"\xef\xbb\xbff\xfcr") == "für"


@given(st.binary(max_size=200))
def test_any_bytes_become_valid_text_with_their_ascii_part(raw: bytes) -> None:
    """Decoding never fails; ASCII characters stay in their order, unless a byte order mark says otherwise."""
    text = legible(raw)
    assert text.encode().decode() == text
    assert not any(ord(one) < 32 and one not in "\n\t" for one in text)
    if not raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")) and not any(one >= 0x80 for one in raw):
        assert [one for one in text if " " <= one <= "~"] == [chr(one) for one in raw if 32 <= one < 127]


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=50))
def test_any_text_becomes_valid(text: str) -> None:
    """Lone surrogates of any origin are replaced; valid text is unchanged."""
    found = valid(text)
    assert found.encode().decode() == found
    if not any("\ud800" <= one <= "\udfff" for one in text):
        assert found == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("f\udcfcr", "für"),
        ("\udcc7\udceb\udcca\udcb9", "请使"),
        ("a\ud800b", "a�b"),
        ("\ud83d\ude00", "😀"),
        ("\udcfc\ud800", "��"),
    ],
)
def test_surrogates_are_undone(text: str, found: str) -> None:
    """Escaped bytes are decoded, pairs become their character, and lone surrogates become U+FFFD."""
    assert valid(text) == found


def test_control_characters_are_shown_and_length_is_bounded() -> None:
    """A reply can neither control a terminal nor fill a row; line feeds and tabs stay."""
    assert legible("a\x00b\x1b[2Jc\x85\x7fd\te\r\nf\rg") == "a�b�[2Jc��d\te\nf\ng"
    assert legible("x" * 70_000) == "x" * (LONGEST_WORDS - 2) + " …"
    assert len(legible(b"\xfc" * 9999, 10)) == 10


def test_nested_values_are_made_valid() -> None:
    """Keys, and nested lists and objects, are made valid too."""
    odd = {"k\ud800": ["f\udcfcr", {"\udfff": 1}], 2: None}
    assert valid_value(odd) == {"k�": ["für", {"�": 1}], 2: None}


@pytest.mark.parametrize("kind", [TransientError, DeferredError, PermanentError, StopChannelError, UncertainError])
def test_the_result_of_an_attempt_can_always_be_stored(kind: type[SendError]) -> None:
    """Errors and receipts are valid and bounded, whatever a channel puts into them."""
    odd = "f\udcfcr \ud800 \x00" + "x" * 99_999
    error = kind(odd, code=odd, reply=odd)
    assert len(error.code) <= 64
    for text in (error.message, error.code, error.reply, str(error)):
        assert text.encode().decode().startswith("f")
        assert len(text) <= LONGEST_WORDS
    receipt = Receipt(odd, odd)
    assert msgspec.msgpack.encode(receipt)
    assert len(receipt.response) <= LONGEST_WORDS
