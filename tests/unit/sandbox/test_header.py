"""Header fields as text: encoded words, parameters, and whatever else arrives."""

from __future__ import annotations

import pytest

from services.sandbox.header import MOST_FIELDS, decode_base64, decode_words, read_fields, read_parameters


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?Ol=C3=A1?= =?utf-8?q?_mundo?=", "Olá mundo"),
        ("=?utf-8?b?4oI=?= =?utf-8?b?rA==?=", "€"),  # a character cut between two words
        ("a =?iso-8859-1?q?=80=E9?= b", "a €é b"),
        ("=?gb18030?b?xOO6ww==?=, =?shift_jis?b?k/qWew==?=", "你好, 日本"),
        ("=?utf-8*en?q?tagged?=", "tagged"),
        ("=?nowhere?q?=C3=A9?=", "é"),
        ("=?utf-7?q?+2AA-?=", "\ufffd\ufffd\ufffd"),  # half of a pair, which JSON cannot hold
        ("=?zlib?b?eJxLBAAAYgBi?=", "x\ufffdK\x04\x00\x00b\x00b"),  # a codec, not a charset
        ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
        ("=?utf-8?b?====?=", ""),
        ("=?utf-8?q?open", "=?utf-8?q?open"),
    ],
)
def test_encoded_words(value: str, text: str) -> None:
    """Words of known charsets are decoded; the rest stays text."""
    assert decode_words(value) == text


@pytest.mark.parametrize(
    ("value", "main", "parameters"),
    [
        ('Text/HTML; Charset="UTF-8"', "text/html", {"charset": "UTF-8"}),
        (r'attachment; filename="a \"b\" c.pdf"', "attachment", {"filename": 'a "b" c.pdf'}),
        ("attachment; filename*=utf-8''M%C3%A4rz.pdf", "attachment", {"filename": "März.pdf"}),
        ("a; filename*1*=%A4rz.pdf; filename*0*=utf-8''M%C3", "a", {"filename": "März.pdf"}),
        ("a; filename*0=one; filename*1=two", "a", {"filename": "onetwo"}),
        ("a; name==?utf-8?q?M=C3=A4rz?=", "a", {"name": "März"}),
        ("a; filename*=nowhere'x", "a", {"filename": "nowhere'x"}),
        ('a; name="open; b=c', "a", {"name": "open; b=c"}),
        ("", "", {}),
    ],
)
def test_parameters(value: str, main: str, parameters: dict[str, str]) -> None:
    """Quotes, percent signs and pieces are undone; an incomplete value is read up to its end."""
    assert read_parameters(value) == (main, parameters)


def test_fields_are_bounded_and_in_order() -> None:
    """Repeated and folded fields are kept, foreign bytes become text, and the five hundredth is the last."""
    head = b"A: 1\r\n  2\r\nnot a field\r\nA: \xff\xc3\xa9\r\n" + b"B: x\r\n" * 1000
    fields = list(read_fields(head))
    assert fields[:2] == [("A", "1  2"), ("A", "\ufffdé")]
    assert len(fields) == MOST_FIELDS


@pytest.mark.parametrize(
    ("content", "decoded"),
    [(b"aGVs\r\nbG8=", b"hello"), (b"aGVsbG8", b"hello"), (b"!a$G=V s", b"hel"), (b"a", b""), (b"", b"")],
)
def test_base64_with_faults(content: bytes, decoded: bytes) -> None:
    """Foreign characters are ignored, as is an incomplete end."""
    assert decode_base64(content) == decoded
