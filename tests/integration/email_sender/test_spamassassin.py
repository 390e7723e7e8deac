"""The shipped templates, as sent, get no points from the local rules of Debian's SpamAssassin."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from pathlib import Path

import pytest

from services.email_sender.dkim_keys import DkimKey
from services.email_sender.message import Frame
from services.email_sender.signing import signed
from services.ingest.templates.files import read_templates
from shared.jobs import Recipient
from shared.templates import Template
from tests.debian import program
from tests.integration.email_sender.mails import MAIL, make_blast, make_job
from tests.unit.email_sender.keys import ed25519_key, rsa_key

FOLDER = Path(__file__).resolve().parents[3] / "templates"
TEMPLATES = {name: file.template for name, file in read_templates(FOLDER, "ID").items()}
KEYS = [DkimKey("example.com", "s1", rsa_key()), DkimKey("example.com", "s2", ed25519_key())]
# as a receiver gets it: over TLS, from a host whose EHLO name matches its address's name
RECEIVED = (
    "Received: from mail.example.com (mail.example.com [93.184.216.34])\r\n"
    "\tby mx.example.net (Postfix) with ESMTPS id 4XyZ12345\r\n"
    f"\tfor <ana@example.net>; {formatdate()}\r\n"
).encode()
Score = tuple[float, Mapping[str, float]]
NAMES = ("Ana", "Siti Nur Aisyah", "Nguyễn Thị Mai", "")


def values(template: Template, *, optional: bool) -> dict[str, object]:
    """Return the examples of a template's variables; without `optional`, only of the required ones."""
    return {one.name: one.example for one in template.variables if optional or one.required}


def as_sent(template: Template) -> list[bytes]:
    """Return the template's messages to several names, as 8-bit and 7-bit text, with each signature and with none."""
    frame = Frame(make_blast("0p4k2n8zq7rt5vwx", template=template), MAIL)
    found = []
    for number, name in enumerate(NAMES):
        recipient = Recipient("ana@example.net", name, values(template, optional=number % 2 == 0))
        mail = frame.fill(make_job(recipient=recipient, index=number))
        found += [mail.encode(eight_bit=True), signed(mail.encode(eight_bit=False), KEYS)]
    return [*found, *(RECEIVED + raw for raw in found)]


def scores(raws: Sequence[bytes], home: Path) -> list[Score]:
    """Return each message's SpamAssassin score and rules; one run for all, since it takes seconds to start."""
    # it sorts its input by time, so each message has a number
    numbered = [b"X-Number: %d\r\n%b" % pair for pair in enumerate(raws)]
    mailbox = b"".join(b"From a@example.com Sat Nov 28 10:00:00 2026\n%b\n" % one for one in numbered).replace(
        b"\r", b""
    )
    command = [program("spamassassin"), "--local", "--cf=add_header all Scores _TESTSSCORES(,)_", "--mbox"]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, input=mailbox, env=environment, capture_output=True, check=True, timeout=110)
    text = re.sub(r"\n[ \t]+", " ", ran.stdout.decode("utf-8", "replace"))
    totals = re.findall(r"^X-Spam-Status: \w+, score=(-?[\d.]+)", text, re.MULTILINE)
    rules = re.findall(r"^X-Spam-Scores: (.*)$", text, re.MULTILINE)
    numbers = re.findall(r"^X-Number: (\d+)$", text, re.MULTILINE)
    assert len(totals) == len(rules) == len(numbers) == len(raws)
    found = {
        int(number): (float(total), {name: float(points) for name, points in re.findall(r"(\w+)=(-?[\d.]+)", one)})
        for number, total, one in zip(numbers, totals, rules, strict=True)
    }
    return [found[number] for number in range(len(raws))]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Score]]:
    """The scores of every template's messages, and under "no list" that of a newsletter without a List-Id."""
    raws = {name: as_sent(template) for name, template in TEMPLATES.items()}
    raws["no list"] = [re.sub(rb"List-Id: [^\r]*\r\n", b"", raws["newsletter"][0])]
    every = iter(scores([raw for some in raws.values() for raw in some], tmp_path_factory.mktemp("home")))
    return {name: [next(every) for _ in some] for name, some in raws.items()}


@pytest.mark.parametrize("name", TEMPLATES)
def test_shipped_template_gets_no_points(name: str, found: Mapping[str, list[Score]]) -> None:
    """No rule adds points, for any recipient, encoding or signature."""
    assert len(found[name]) == 4 * len(NAMES)
    for total, rules in found[name]:
        assert total <= 0, rules
        # 0.001 is the score of informational rules
        assert not {rule: points for rule, points in rules.items() if points > 0.001}


def test_newsletter_without_its_list_gets_points(found: Mapping[str, list[Score]]) -> None:
    """SpamAssassin gives a point to a List-Unsubscribe without a List-Id, so the header is needed."""
    ((total, rules),) = found["no list"]
    assert total >= 1, rules
