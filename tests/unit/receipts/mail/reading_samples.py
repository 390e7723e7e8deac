"""Reads the samples as if they had come in."""

from __future__ import annotations

from pathlib import Path

from services.receipts.mail.reading import read_mail
from services.receipts.reading import Reading
from shared.receipts import RETURN_PREFIX, make_return_token
from tests.unit.receipts.mail.expected import JOB_ID, MESSAGE_ID

SECRET = "a secret of the tests"
FOLDER = Path(__file__).parent / "samples"
TAKEN_AT = 1_795_857_600.0  # 2026-11-28 09:20 UTC
TOKEN = RETURN_PREFIX + make_return_token(JOB_ID, SECRET)


def sample(name: str) -> bytes:
    values = {
        b"TOKEN": TOKEN,
        b"UPPER": TOKEN.upper(),
        b"FORGED": RETURN_PREFIX + make_return_token(JOB_ID, "another secret"),
        b"MESSAGEID": MESSAGE_ID,
        b"JOBID": JOB_ID,
    }
    raw = (FOLDER / f"{name}.eml").read_bytes()
    for mark, value in values.items():
        raw = raw.replace(mark, value.encode())
    return raw


def read(raw: bytes) -> Reading:
    return read_mail(raw, TAKEN_AT, SECRET)
