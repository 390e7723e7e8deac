"""A mail as a reader shows it; hostile MIME costs neither a crash nor much time."""

from __future__ import annotations

import time
from email.message import EmailMessage
from email.policy import SMTP

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.mime import DEEPEST, MOST_PARTS, read_mail, safe_html

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20
MANY = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
PIECES = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=b\r\n",
        b'Content-Type: multipart/related; boundary="b b"\r\n',
        b"Content-Type: text/html; charset=utf-16\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"Content-Disposition: attachment; filename*0*=utf-7''+2AA-\r\n",
        b"Content-ID: <x>\r\n",
        *(b"\r\n", b"--b\r\n", b"--b--\r\n", b"\r\n--b b\r\n", b"\r\n--b", b"=", b"=?", b"\xff\x00", b"<link>cid:x"),
    ]
)


def full_mail() -> bytes:
    mail = EmailMessage()
    mail["Subject"] = "Grüße"
    mail.set_content("Halo Siti,\n")
    mail.add_alternative("<p>Halo <img src='cid:logo'> <img src=\"cid:other\"></p>", subtype="html")
    mail.get_payload()[1].add_related(PNG, "image", "png", cid="<logo>")  # type: ignore[union-attr, index]
    mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="März.pdf")
    mail.add_attachment("<b>", subtype="html", filename="page.html")
    return mail.as_bytes(policy=SMTP)


def test_a_mail_with_everything() -> None:
    """HTML and text are those to show; pictures of the mail and files are attachments with names."""
    mail = read_mail(full_mail())
    assert ("Subject", "Grüße") in mail.fields
    assert mail.text is not None
    assert mail.text.text == "Halo Siti,\r\n"
    assert mail.html is not None
    assert [(one.content_type, one.filename) for one in mail.attachments] == [
        ("image/png", ""),
        ("application/pdf", "März.pdf"),
        ("text/html", "page.html"),
    ]
    found = mail.part(mail.attachments[1].number)
    assert found is not None
    assert found.content.strip() == b"%PDF"
    assert mail.part(99) is None


def test_pictures_of_the_mail_are_put_into_its_html() -> None:
    """A reference to a picture becomes data; one to nothing stays, and the policy stops it."""
    html = safe_html(read_mail(full_mail()))
    assert "src='data:image/png;base64,iVBORw0" in html
    assert 'src="cid:other"' in html


def test_repeated_pictures_do_not_fill_the_memory() -> None:
    """A hundred thousand references to one picture stay a page of a few megabytes."""
    body = b"cid:x " * 100_000
    raw = MANY + b"--b\r\nContent-Type: text/html\r\n\r\n" + body
    raw += b"\r\n--b\r\nContent-Type: image/png\r\nContent-ID: <x>\r\n\r\n" + b"p" * 100_000 + b"\r\n--b--\r\n"
    assert len(safe_html(read_mail(raw))) < 16 * 1024 * 1024


@pytest.mark.parametrize("link", ["<link rel=preconnect href=//x>", "<LINK\trel=dns-prefetch>", "<svg><lInk/>"])
def test_links_to_other_files_become_unknown_elements(link: str) -> None:
    """No policy stops a page from connecting to the host of a link element."""
    html = safe_html(read_mail(b"Content-Type: text/html\r\n\r\n<p>a</p>" + link.encode()))
    assert "<link" not in html.lower()
    assert "<p>a</p>" in html


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"\r\n", ""),
        (b"no header at all", ""),
        (b"A: b\r\n\r\n\xff\xe9 caf\xc3\xa9", "\ufffd\ufffd café"),
        (b"Content-Type: text/plain; charset=latin-1\r\n\r\n\xe9\x80", "é€"),
        (b"Content-Type: text/plain; charset=punycode\r\n\r\nb-1ga", "b-1ga"),
        (b"Content-Type: text/plain; charset=\x00\r\n\r\nx", "x"),
        (b"Content-Type: nonsense\r\n\r\nx", None),
        (b"Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\nx", None),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n", None),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nunclosed", "unclosed"),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--bb\r\n\r\nother\r\n--b\r\n\r\nx\r\n--b--", "x"),
    ],
)
def test_broken_mail(raw: bytes, text: str | None) -> None:
    """What can be read is shown; the rest is an attachment."""
    mail = read_mail(raw)
    assert (mail.text.text if mail.text else None) == text
    assert bool(mail.text) != bool(mail.attachments)


@given(st.lists(PIECES, max_size=40).map(b"".join))
def test_no_mail_is_refused(raw: bytes) -> None:
    """Whatever its pieces, a mail has parts, and all of its text fits into JSON."""
    mail = read_mail(raw)
    shown = [part.text for part in (mail.html, mail.text, *mail.attachments) if part]
    assert shown
    orjson.dumps([mail.fields, shown, [one.filename for one in mail.attachments], safe_html(mail) if mail.html else ""])


def test_parts_and_levels_are_bounded() -> None:
    """Ten thousand parts, and a thousand levels, are read as far as they are shown."""
    wide = read_mail(MANY + b"--b\r\nContent-Type: a/b\r\n\r\nx\r\n" * 10_000)
    assert len(wide.attachments) == MOST_PARTS
    levels = (b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(1000))
    (deep,) = read_mail(b"".join(levels)).attachments
    assert b"boundary=b%d" % (DEEPEST + 1) in deep.raw


@pytest.mark.timing
@pytest.mark.parametrize(
    "raw",
    [
        MANY + b"--b\r\nContent-Type: multipart/x; boundary=c\r\n\r\n" * 90_000,
        MANY + b"--b   \t" * 600_000,
        b'Content-Type: text/html; a="' + b'";"' * 1_000_000,
        b"Subject: " + b"=?utf-8?q?=?=?=\r\n " * 250_000,
        b"Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b"=" * 4_000_000,
        b"A: b\r\n" * 700_000,
        b"Content-Type: text/html; charset=idna\r\n\r\n" + b"xn--a." * 700_000,
    ],
    ids=["empty parts", "almost boundaries", "quotes", "words", "padding", "fields", "names"],
)  # fmt: skip
def test_four_megabytes_of_hostile_mail_take_little_time(raw: bytes) -> None:
    """Nothing in it costs more than its length."""
    began = time.thread_time()
    mail = read_mail(raw)
    assert mail.attachments or mail.text or mail.html
    assert time.thread_time() - began < 1.5
