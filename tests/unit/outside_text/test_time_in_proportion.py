"""Readers of outside text take time linear in its length: bodies, replies, templates, settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from services.email_sender.mime import mailbox, parameter, unstructured
from services.email_sender.replies import Stage, asked_wait_s, classify
from services.ingest.blasts.addresses import normal_phone, read_mailbox
from services.ingest.blasts.csv_header import read_header as read_columns
from services.ingest.blasts.csv_rows import _are_rows, _Reader
from services.ingest.http.decoding import convert
from services.ingest.http.requests import BlastRequest
from services.sandbox.header import decode_words
from services.sandbox.mail import read_header
from services.sandbox.mime import read_mail
from services.whatsapp_sender.bodies import own_fault
from services.whatsapp_sender.replies import Answer, read_answer
from shared.mailboxes import normal_email
from shared.masking import mask
from shared.rendering.plaintext import settle, tidy
from shared.settings import Rate, parse_seconds
from shared.smtp.replies import Reply

TRIES = 4
SMALL, LARGE = 8192, 65536
FLOOR_S = 0.020
UNITS = (
    *("a", "1", " ", "\n", "\t", ".", "@", "a@", ":", "-", "+", "<", "<a", "(", '"', '\\"', "\\", "'", "`", "=", "%"),
    *(
        "\ue010",
        "\ue013 ",
        " \n",
        "1 ",
        "4.7.1 ",
        "try again 1 ",
        "00:",
        " - at `",
        "subject:\r\n ",
        "é",
        "a.a@",
        "FROM:<",
    ),
)


def _problem(text: str) -> None:
    convert({text: text}, BlastRequest)


def _hint(text: str) -> None:
    _Reader(1024 * 1024, read_columns).feed(f"sep={text}xy\n")


def _code(text: str) -> None:
    own_fault({"code": f"5{text}x"})


READERS: dict[str, Callable[[str], object]] = {
    "log mask": mask,
    "gaps of a text": settle,
    "blank lines of a text": tidy,
    "mailbox": lambda text: read_mailbox(text, "from"),
    "mailbox with an address": lambda text: read_mailbox(f"{text}<{text}>", "from"),
    "email": normal_email,
    "hint of a CSV file": _hint,
    "lines of a CSV cell": lambda text: _are_rows([text, text], "\0", 1),
    "phone": lambda text: normal_phone(text, "ID"),
    "problem": _problem,
    "SMTP reply": lambda text: classify(Stage.RCPT, Reply(450, text)),
    "SMTP wait": asked_wait_s,
    "Qiscus answer": lambda text: read_answer(Answer(400, text.encode(), text, 0.0)),
    "code of an answer": _code,
    "rate": Rate.parse,
    "duration": parse_seconds,
    "sandboxed mail": lambda text: read_header(text.encode()),
    "mail in the mailbox": lambda text: read_mail(f"Content-Type: a;b={text}\r\n\r\n{text}".encode()),
    "words of a mail": decode_words,
    "subject": lambda text: unstructured(text, 9),
    "display name": lambda text: mailbox(text, "s@example.com", 4),
    "file name": lambda text: parameter("filename", text),
}


def _spent(read: Callable[[str], object], text: str, tries: int = TRIES) -> float:
    least = float("inf")
    for _ in range(tries):
        began = time.thread_time()
        with suppress(Exception):  # other tests check the result
            read(text)
        least = min(least, time.thread_time() - began)
    return least


def _filled(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size] + "\x00"


@pytest.mark.cost
@pytest.mark.parametrize("name", READERS)
def test_eight_times_the_text_takes_about_eight_times_as_long(name: str) -> None:
    """Quadratic work would take 64 times as long; readers that take less than 20 ms are not checked."""
    read, slow = READERS[name], {}
    for unit in UNITS:
        if _spent(read, _filled(unit, LARGE), tries=1) < FLOOR_S:
            continue
        small, large = _spent(read, _filled(unit, SMALL)), _spent(read, _filled(unit, LARGE))
        if large > max(20 * small, FLOOR_S):
            slow[unit] = (round(small * 1000, 2), round(large * 1000, 2))
    assert slow == {}
