"""DKIM: two other implementations verify signed messages and reject changed ones."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import dkim
import msgspec
import pytest
from dkim.canonicalization import Relaxed
from hypothesis import given, settings
from hypothesis import strategies as st

from services.email_sender.dkim_keys import DkimKey, KeyRing
from services.email_sender.encoder import ENCODE_ASIDE_BYTES, Encoder, draft
from services.email_sender.message import Frame, Mail
from services.email_sender.mime import PlainLines, is_plain
from services.email_sender.signing import body_digest, plain_digest, signed
from services.email_sender.signing import covered as covered_headers
from shared.jobs import Attachment, Recipient
from shared.templates import Template
from tests.debian import missing, program
from tests.integration.email_sender.mails import MAIL, Content, fill, make_blast, make_job, make_mail
from tests.unit.email_sender.keys import ed25519_key, rsa_key, verdicts
from tests.unit.email_sender.test_message import CONTENTS

MARKETING = Template(id="t", name="T", channels=["email"], category="marketing", subject="é", html="<p>.é\n.</p>")
RSA = DkimKey("example.com", "r", rsa_key())
ED25519 = DkimKey("example.com", "e", ed25519_key())
KEYS = {"rsa": [RSA], "ed25519": [ED25519], "both": [RSA, ED25519]}
OVERSIGNED = ("from", "to", "subject", "date", "message-id")

WORDS = st.text(st.sampled_from("ab .=\t"), max_size=40)
BODIES = st.lists(WORDS, max_size=12).map(lambda lines: "".join(f"{line}\r\n" for line in lines).encode())
# bodies: empty, blank lines at the end, dots, runs of spaces, tabs, lines longer than a piece of the hash
AWKWARD = [b"", b"\r\n", b"\r\n" * 5, b"  \r\n\t\r\n", b"a \r\n \r\n\t\r\n", b".\r\n..\r\n", b" " * 990 + b"x\r\n",
           b"x" * 600_000 + b"\r\n", (b" a  b\t\r\n" * 50_000), b"last line without an end"]  # fmt: skip


def covered(raw: bytes) -> list[str]:
    """Return the names in the first signature's `h=`."""
    listed = re.search(rb"\bh=([^;]*);", raw)
    assert listed is not None
    return re.sub(rb"\s", b"", listed[1]).decode().split(":")


async def encoded(mail: Mail, keys: Sequence[DkimKey], *, eight_bit: bool = True) -> bytes:
    encoder = Encoder(KeyRing(keys))
    try:
        return await encoder.encode(mail, eight_bit=eight_bit)
    finally:
        await encoder.close()


@pytest.mark.parametrize("kind", KEYS)
async def test_signed_message_is_verified_and_a_changed_one_is_not(kind: str) -> None:
    """Each key makes a signature that its published key verifies; one changed byte breaks all signatures."""
    keys = KEYS[kind]
    raw = await encoded(make_mail(template=MARKETING), keys)
    assert verdicts(raw, keys) == [True] * len(keys)
    for old, new in (
        (b"Ana", b"Ama"),
        (b"One-Click", b"Two-Click"),
        (b"Shop", b"Shap"),
        (b"List-Id: T", b"List-Id: U"),
    ):
        assert old in raw
        assert verdicts(raw.replace(old, new), keys) == [False] * len(keys)


@pytest.mark.parametrize("name", OVERSIGNED)
async def test_no_second_header_can_be_added(name: str) -> None:
    """From, To, Subject, Date and Message-ID are signed once more than they occur (RFC 6376, 8.15)."""
    raw = await encoded(make_mail(), [ED25519])
    assert covered(raw).count(name) == 2
    forged = f"{name.title()}: another\r\n".encode()
    assert verdicts(forged + raw, [ED25519]) == [False]
    head, _, body = raw.partition(b"\r\n\r\n")
    assert verdicts(b"%b\r\n%b\r\n%b" % (head, forged, body), [ED25519]) == [False]
    assert verdicts(b"X-Other: header\r\n" + raw, [ED25519]) == [True]


async def test_headers_of_unsubscription_are_signed() -> None:
    """RFC 8058 requires both; Gmail uses a Feedback-ID only if it is signed."""
    names = covered(await encoded(make_mail(template=MARKETING), [ED25519]))
    assert {"list-unsubscribe", "list-unsubscribe-post", "list-id", "feedback-id", "reply-to"} - set(names) == {
        "reply-to"
    }


@settings(max_examples=150, deadline=None)
@given(content=CONTENTS)
def test_dkimpy_verifies_any_message(content: Content) -> None:
    """Folded headers, every alphabet, dots, long lines and attachments verify, with an RSA and an Ed25519 signature."""
    raw = draft(fill(content), [RSA, ED25519]).signed()
    assert verdicts(raw, [RSA, ED25519]) == [True, True]
    assert b"\r\n." not in raw or not isinstance(raw, PlainLines)
    assert max(map(len, raw.split(b"\r\n"))) <= 998


@settings(max_examples=100, deadline=None)
@given(content=CONTENTS)
@pytest.mark.parametrize("category", ["transactional", "marketing"])
@pytest.mark.parametrize("reply_to", ["", "Ä  Ö <reply@example.com>"])
def test_what_is_covered_is_known_without_looking_at_the_head(category: str, reply_to: str, content: Content) -> None:
    """A frame knows its fixed headers in canonical form; with each message's own they are those of its head."""
    template = Template("t", "T", ["email"], category=category, subject="{{ s }}", html="<p></p>")  # type: ignore[arg-type]
    recipient = Recipient("ana@example.com", content.name, {"s": content.subject})
    for mail in (MAIL, replace(MAIL, with_metadata=True, unsubscribe_to="off@example.com")):
        filled = Frame(make_blast(template=template, reply_to=reply_to), mail).fill(make_job(recipient=recipient))
        assert filled.frame.covered(filled.own) == covered_headers(filled.head)


@settings(max_examples=300, deadline=None)
@given(body=BODIES)
def test_body_is_hashed_as_dkimpy_hashes_it(body: bytes) -> None:
    """Blank lines at the end, spaces at the ends of lines, tabs, runs of spaces, and an empty body."""
    assert_hash_is_dkimpys(body)


@pytest.mark.parametrize("body", AWKWARD, ids=lambda body: f"{len(body)}")
def test_awkward_bodies_are_hashed_as_dkimpy_hashes_them(body: bytes) -> None:
    """The hash is the same when it is fed in pieces."""
    assert_hash_is_dkimpys(body)


def assert_hash_is_dkimpys(body: bytes) -> None:
    head = b"From: a@example.com\r\n\r\n"
    expected = dkim.HASH_ALGORITHMS[b"rsa-sha256"](Relaxed.canonicalize_body(body)).digest()
    assert body_digest(head + body, len(head)) == expected
    if is_plain(body):
        assert plain_digest(head + body, len(head)) == expected


@pytest.mark.parametrize(
    "head",
    [
        b"From: a@example.com\r\nTo: b@example.com\r\nTO: c@example.com\r\nSubject: one\r\nsubject:two\r\n",
        b"FROM:a@example.com\r\nSubject:\r\n  folded  \r\n\ttwice \r\nTo:\r\n b@example.com\r\n",
        b"From: a@example.com\r\nTo: b@example.com\r\nReceived: by x\r\n",
        b"From: a@example.com\r\n",
    ],
)
@pytest.mark.parametrize("body", [b"", b"text\r\n"])
def test_any_headers_are_verified(head: bytes, body: bytes) -> None:
    """Repeated, folded, empty and missing headers verify, in any case and with any spaces around the names."""
    raw = signed(head + b"\r\n" + body, [RSA, ED25519])
    assert verdicts(raw, [RSA, ED25519]) == [True, True]


@pytest.mark.parametrize("filename", ["list.pdf", "a  list.pdf", "ü.pdf"])
@pytest.mark.parametrize("name", ["Ana", "Ana  Bo", ".Ana"])
@pytest.mark.parametrize("own", [True, False])
def test_usual_letter_with_files_is_verified(name: str, filename: str, own: bool) -> None:
    """Its lines are known to be plain, unless a value or a file's name has other spaces or a dot."""
    files = [Attachment(filename, "application/pdf", b"x" * 500)]
    usual = Template("t", "T", ["email"], subject="s", html="<p>{{ name }}</p>\n", text="{{ name }},\nhi.\n\n\n")
    recipient = Recipient("ana@example.com", "Ana", {"name": name}, "", files if own else [])
    frame = Frame(make_blast(template=usual, attachments=[] if own else files), MAIL)
    raw = draft(frame.fill(make_job(recipient=recipient)), [RSA, ED25519]).signed()
    assert verdicts(raw, [RSA, ED25519]) == [True, True]
    assert isinstance(raw, PlainLines) == (name == "Ana" and "  " not in filename)
    assert b"\r\n." not in raw or not isinstance(raw, PlainLines)


async def test_perl_verifies_what_dkimpy_verifies(tmp_path: Path) -> None:
    """Mail::DKIM, used by SpamAssassin and limited to RSA, accepts the message and rejects a changed one."""
    perl = program("perl")
    if subprocess.run([perl, "-MMail::DKIM", "-e", "1"], check=False, capture_output=True).returncode:
        missing("libmail-dkim-perl is not installed")
    contents = [
        Content(),
        Content(text="", html=""),
        Content(text="dots\n.\n..\n", html="<p>é  é \t</p>\n\n\n"),
        Content(subject="x" * 300 + " é " * 40, name="日本語 " * 20),
        Content(text="trailing  \t \n\n\n \n", html="<p>" + "long " * 600),
        Content(attachments=[Attachment("ü.bin", "application/pdf", bytes(range(256)) * 900)]),
    ]
    raws = [await encoded(mail, [RSA]) for mail in (make_mail(template=MARKETING), *map(fill, contents))]
    raws.append(raws[0].replace(b"Ana", b"Ama"))
    for number, raw in enumerate(raws):
        (tmp_path / f"{number}.eml").write_bytes(raw)
    script = Path(__file__).with_name("verify.pl")
    command = [perl, str(script), str(tmp_path), RSA.dns_name, RSA.dns_record]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert said[:-1] == ["pass"] * (len(raws) - 1)
    assert said[-1].startswith("fail")


async def test_signed_message_is_ascii_though_the_server_takes_more() -> None:
    """A relay that had to convert 8-bit text would break the signature."""
    assert (await encoded(fill(Content(text="café\n")), [ED25519])).isascii()


@pytest.mark.parametrize("domain", ["example.org", "notexample.com", "com"])
async def test_mail_of_another_domain_is_not_signed(domain: str) -> None:
    """A signature not aligned with From proves nothing about the sender (RFC 7489, 3.1.1)."""
    mail = msgspec.structs.replace(make_mail(), from_domain=domain)
    assert await encoded(mail, [RSA, ED25519]) == mail.encode(eight_bit=True)
    assert await encoded(mail, []) == mail.encode(eight_bit=True)


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("a@example.com", "example.com"),
        ("a@Example.COM", "example.com"),
        ("a@news.example.com", "news.example.com"),
        ("a@a.b.news.example.com", "news.example.com"),
        ("a@shop.example.com", "example.com"),
        ("a@münchen.example", "xn--mnchen-3ya.example"),
    ],
)
async def test_key_is_chosen_by_the_from_domain(sender: str, domain: str) -> None:
    """It is the domain's own key, else that of the nearest parent domain; another blast's From does not matter."""
    domains = ("example.com", "news.example.com", "xn--mnchen-3ya.example")
    keys = [DkimKey(one, "s", ed25519_key()) for one in domains]
    raw = await encoded(make_mail(from_address=sender), keys)
    assert f" d={domain};".encode() in raw.partition(b"\r\n")[0]
    assert verdicts(raw, keys) == [True]


async def test_large_message_is_signed_off_the_loop_and_verified() -> None:
    """With any key, slow signing does not block the event loop."""
    big = Attachment("f.pdf", "application/pdf", os.urandom(ENCODE_ASIDE_BYTES))
    mail = Frame(make_blast(), MAIL).fill(make_job(recipient=Recipient("ana@example.com", "Ana", {}, "", [big])))
    encoder = Encoder(KeyRing([ED25519]))
    assert encoder.encode_at_once(mail, eight_bit=True) is None
    assert encoder.encode_at_once(make_mail(), eight_bit=True) is not None
    assert verdicts(await encoder.encode(mail, eight_bit=True), [ED25519]) == [True]
    await encoder.close()
