"""Hostile mail: any bytes are read without an exception, in time proportional to their number."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.receipts.mail.mime import Headers
from tests.unit.receipts.mail.expected import RECEIPTS
from tests.unit.receipts.mail.reading_samples import read, sample

FROM_DAEMON = b"From: MAILER-DAEMON@mx.example.net\r\nReturn-Path: <>\r\nSubject: failure notice\r\n"
MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
STATUS = (
    FROM_DAEMON
    + b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
)
MEGABYTE = 1024 * 1024
SIZE = 25 * MEGABYTE
NESTED = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(40_000))
# what a mail begins with, and what is repeated up to its size
SHAPES = {
    "one line": (FROM_DAEMON + b"\r\n", b"a"),
    "short lines": (FROM_DAEMON + b"\r\n", b"--\r\n"),
    "one header field": (FROM_DAEMON + b"X: ", b"a"),
    "many header fields": (FROM_DAEMON, b"X: y\r\n"),
    "folded header field": (FROM_DAEMON + b"X: a", b"\r\n a"),
    "nested parts": (FROM_DAEMON + NESTED, b"a"),
    "the same boundary nested": (FROM_DAEMON, MIXED + b"--b\r\n"),
    "many parts": (FROM_DAEMON + MIXED, b"--b\r\n\r\nx\r\n"),
    "almost delimiters": (FROM_DAEMON + MIXED, b"--bx\r\n"),
    "parameters": (FROM_DAEMON + b"Content-Type: multipart/mixed", b'; a="'),
    "base64": (FROM_DAEMON + b"Content-Transfer-Encoding: base64\r\n\r\n", b"QUJD"),
    "tags": (FROM_DAEMON + b"Content-Type: text/html\r\n\r\n", b"<p><"),
    "recipients": (STATUS, b"Final-Recipient: rfc822; a@b.c\r\nAction: failed\r\n\r\n"),
    "codes": (STATUS + b"Final-Recipient: rfc822; a@b.c\r\nDiagnostic-Code: smtp; ", b"550 "),
    "addresses": (FROM_DAEMON + b"X-Failed-Recipients: ", b"a@b.example,"),
    "tokens": (FROM_DAEMON + b"\r\nundeliverable\r\nTo: ", b"b-aaaaaaaaaaaaaaaaaaaaaaaa@x, "),
    "bytes of no charset": (FROM_DAEMON + b"\r\nundeliverable ", b"\xe9"),
    "encoded words": (b"Subject: ", b"=?utf-8?q?"),
    "NULs": (FROM_DAEMON + b"\r\nundeliverable", b"\0"),
    "blank lines": (FROM_DAEMON + b"\r\nundeliverable", b"\n \n \t"),
}


@pytest.mark.cost
@pytest.mark.parametrize("shape", SHAPES)
def test_25_megabytes_are_read_in_little_time(shape: str) -> None:
    """No shape of mail costs more than two seconds of processor time, whether it repeats parts, lines or letters."""
    head, unit = SHAPES[shape]
    raw = head + unit * (SIZE // len(unit))
    began = time.thread_time()
    read(raw)
    assert time.thread_time() - began < 2.0


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=st.binary(max_size=2000))
def test_any_bytes_are_read(raw: bytes) -> None:
    """Bytes without any structure give a reason or nothing, and never an exception or a receipt."""
    assert not read(raw).receipts


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(RECEIPTS)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12), st.integers(0, 300)), max_size=6),
)
def test_damaged_bounce_is_read(name: str, changes: list[tuple[float, bytes, int]]) -> None:
    """A bounce with bytes lost, added or replaced anywhere gives valid receipts or none, and never an exception."""
    raw = bytearray(sample(name))
    for where, new, removed in changes:
        at = int(where * len(raw))
        raw[at : at + removed] = new
    for receipt in read(bytes(raw)).receipts:
        for text in (receipt.words, receipt.address, receipt.code, receipt.job_id, receipt.message_id):
            text.encode()
        assert len(receipt.words) <= 1000
        assert receipt.severity in ({"hard", "soft"} if receipt.kind == "bounced" else {""})


@pytest.mark.parametrize(
    ("charset", "words"),
    [
        ("punycode", b"550 5.1.1 user unknown"),
        ("unicode_escape", b"550 5.1.1 user unknown \\ud800"),
        ("utf-16", b"550 5.1.1 user unknown"),
        ("utf-7", b"550 5.1.1 user unknown +2AA-"),
        ("\xff\xfe", b"550 5.1.1 user unknown"),
        ("zip", b"550 5.1.1 user unknown"),
    ],
)
def test_charset_is_never_trusted(charset: str, words: bytes) -> None:
    """Unknown charsets, codecs that decode no text, and lone surrogates give text that can be stored."""
    raw = sample("qmail-remote").replace(
        b"\r\n\r\nHi.", b"\r\nContent-Type: text/plain; charset=%b\r\n\r\nHi." % charset.encode(), 1
    )
    raw = raw.replace(b"550 5.1.1 <ana@example.org>: Recipient address rejected: User unknown", words)
    for receipt in read(raw).receipts:
        receipt.words.encode()


@pytest.mark.parametrize(
    ("value", "readable"),
    [
        ("=?iso-2022-\u00e3p?B?ZmFpbHVyZSBub3RpY2U=?=", "failure notice"),
        ("=?x-unknown?Q?failure_notice?=", "failure notice"),
        ("=?undefined?Q?failure_notice?=", "failure notice"),
        ("=?zip?B?ZmFpbHVyZSBub3RpY2U=?=", "failure notice"),
        ("=?us-ascii?Q?failure_=E9?=", "failure \u00e9"),
        ("=?utf-8?B?ZmFpbHVyZSDpbm90?=", "failure \u00e9not"),
        ("=?utf-8?Q?failure?= of \u8a71 \\ud800 =?utf-8*de?Q?=C3=BC?=", "failure of \u8a71 \ufffd \u00fc"),
        ("Re: =?gb2312?B?zcvQxQ==?= =?gb2312?B?o7o=?=x", "Re: \u9000\u4fe1\uff1ax"),
        ("=?utf-8?B?A?= failure notice", "=?utf-8?B?A?= failure notice"),
    ],
)
def test_header_field_in_any_charset_is_read(value: str, readable: str) -> None:
    """A field is read by the words that can be decoded, whatever charset it names."""
    assert Headers(b"Subject: " + value.encode()).readable("subject") == readable


def test_words_are_cut_and_made_valid() -> None:
    """A diagnostic of a megabyte with bytes of no charset becomes at most 1,000 valid characters."""
    raw = sample("exim-dsn").replace(b"user does not exist", b"user does not exist \xff\x00" + b"very " * 200_000)
    (receipt,) = read(raw).receipts
    assert len(receipt.words) <= 1000
    assert receipt.words.isprintable()
    assert (receipt.severity, receipt.code) == ("hard", "5.1.1")
