"""Parsing replies: each is found complete, in order and as valid text, however a server writes it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from aiosmtplib import SMTPResponse
from aiosmtplib.errors import SMTPResponseException
from hypothesis import given
from hypothesis import strategies as st

from services.email_sender.reply_reader import KEPT_BYTES, MOST_BYTES, ReplyReader, read_extensions

ODD = [
    (b"250 ok\r\n", [(250, "ok")]),
    (b"250 ok\n", [(250, "ok")]),
    (b"250\r\n", [(250, "")]),
    (b"250 \r\n", [(250, "")]),
    (b"250-\r\n250-\r\n250\r\n", [(250, "\n\n")]),
    (b"250-mail\r\n\r\n250-SIZE 1\r\n \t\r\n250 HELP\r\n", [(250, "mail\nSIZE 1\nHELP")]),
    (b"\r\n\r\n250 ok\r\n\r\n", [(250, "ok")]),
    (b"220-Welcome\r\nto our server\r\n220 ESMTP\r\n", [(220, "Welcome\nto our server\nESMTP")]),
    (b"250-one\r\n550 two\r\n", [(550, "one\ntwo")]),
    (b"250ok\r\n", [(250, "ok")]),
    (b"250\tok\r\n", [(250, "ok")]),
    (b" 250 ok\r\n", [(250, "ok")]),
    (b"250 ok\r\r\n", [(250, "ok")]),
    (b"250 2.0.0 angenommen f\xfcr Siti\r\n", [(250, "2.0.0 angenommen für Siti")]),
    (b"535 Error: \xc7\xeb\xca\xb9\xd3\xc3\r\n", [(535, "Error: 请使用")]),
    ("550 ユーザー不明\r\n".encode("shift_jis"), [(550, "ユーザー不明")]),
    ("250 für Siti\r\n".encode(), [(250, "für Siti")]),
    (b"250 a\x00b\x1b[31mc\r\n", [(250, "a�b�[31mc")]),
    (b"250 ok\r\n250 ok\r\n354 go\r\n", [(250, "ok"), (250, "ok"), (354, "go")]),
    (b"250 ok\r\n250-a\r\n250 ok\r\n250 ok\r\n", [(250, "ok"), (250, "a\nok"), (250, "ok")]),
    (b"220 " + b"x" * 100_000 + b"\r\n250 ok\r\n", [(220, "x" * KEPT_BYTES), (250, "ok")]),
]  # fmt: skip


def read(*pieces: bytes) -> list[tuple[int, str]]:
    reader, replies = ReplyReader(), list[SMTPResponse]()
    for piece in pieces:
        reader.feed(piece, replies)
    return [(reply.code, reply.message) for reply in replies]


@pytest.mark.parametrize(("raw", "replies"), ODD)
def test_odd_replies_are_read(raw: bytes, replies: list[tuple[int, str]]) -> None:
    """Blank lines, no text, bare line feeds, differing codes, lines without a code, any charset and any length."""
    assert read(raw) == replies


@pytest.mark.parametrize(("raw", "replies"), [one for one in ODD if len(one[0]) < 1000])
def test_replies_that_come_byte_by_byte_are_the_same(raw: bytes, replies: list[tuple[int, str]]) -> None:
    """The pieces into which the network cuts a reply make no difference."""
    assert read(*(raw[at : at + 1] for at in range(len(raw)))) == replies


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_no_bytes_make_text_that_cannot_be_encoded(pieces: list[bytes]) -> None:
    """Every reply's text is valid Unicode; any other input raises one kind of error."""
    reader, replies = ReplyReader(), list[SMTPResponse]()
    for piece in pieces:
        with suppress(SMTPResponseException):
            reader.feed(b"250-" + piece + b"\r\n250 " + piece + b"\r\n", replies)
    for reply in replies:
        assert reply.message.encode().decode() == reply.message


@pytest.mark.parametrize("raw", [b"hello\r\n", b"25\r\n", b"150 ok\r\n", b"650 ok\r\n", b"25O ok\r\n", b"\xff\xfe\r\n"])
def test_bytes_that_are_not_a_reply_are_refused_after_earlier_replies(raw: bytes) -> None:
    """A reply that arrived together with nonsense still counts."""
    replies: list[SMTPResponse] = []
    with pytest.raises(SMTPResponseException, match="not a reply"):
        ReplyReader().feed(b"250 ok\r\n" + raw, replies)
    assert [reply.code for reply in replies] == [250]


def exhaust(reader: ReplyReader, endless: bytes) -> None:
    for _ in range(MOST_BYTES // 1000 + 1):
        reader.feed(endless, [])


def test_reply_without_end_is_given_up() -> None:
    """A server that sends without end, with line breaks or without, costs a bounded amount of memory."""
    for endless in (b"250-" + b"x" * 1000 + b"\r\n", b"x" * 1000):
        reader = ReplyReader()
        with pytest.raises(SMTPResponseException, match="too long"):
            exhaust(reader, endless)
        assert len(reader._rest) + sum(map(len, reader._lines)) <= 2 * KEPT_BYTES


@pytest.mark.parametrize(
    ("raw", "midway"), [(b"", False), (b"\r\n", False), (b"250 ok\r\n", False), (b"250-ok\r\n", True), (b"25", True)]
)
def test_reader_knows_whether_it_is_within_a_reply(raw: bytes, midway: bool) -> None:
    """Data that arrived unencrypted before TLS is detected, even if it is only the beginning of a reply."""
    reader = ReplyReader()
    reader.feed(raw, [])
    assert reader.midway is midway


@pytest.mark.parametrize(
    ("text", "extensions", "methods"),
    [
        ("mail\nPIPELINING\nSIZE 10\nAUTH PLAIN LOGIN", {"pipelining": "", "size": "10", "auth": "PLAIN LOGIN"},
         "plain login"),
        ("mail\n  Size   10\nauth  Plain   Login", {"size": "10", "auth": "PLAIN LOGIN"}, "plain login"),
        ("\n\nStartTLS\n\nSize\t10", {"starttls": "", "size": "10"}, ""),
        ("mail\nAUTH=LOGIN PLAIN\nAUTH LOGIN CRAM-MD5", {"auth": "LOGIN PLAIN CRAM-MD5"}, "login plain cram-md5"),
        ("mail\nauth=login", {"auth": "LOGIN"}, "login"),
        ("mail\nAUTH", {"auth": ""}, ""),
        ("mail\nAUTH PLAIN,LOGIN, CRAM-MD5", {"auth": "PLAIN LOGIN CRAM-MD5"}, "plain login cram-md5"),
        ("mail", {}, ""),
        ("", {}, ""),
    ],
)  # fmt: skip
def test_extensions_however_they_are_written(text: str, extensions: dict[str, str], methods: str) -> None:
    """Lower case, extra spaces, commas, blank lines, and AUTH in its old form are accepted."""
    assert read_extensions(text) == (extensions, methods.split())
