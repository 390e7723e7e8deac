"""Hostile bodies: a reader never raises, whatever it is given, and takes time in proportion."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.receipts.providers import READERS
from services.receipts.providers.fields import UnreadableError, parse_json
from services.receipts.reading import Reading
from shared.events import Receipts, pack_event
from shared.receipts import LONGEST_RECEIPT_WORDS
from tests.unit.receipts.test_payloads import CASES

TAKEN_AT = 1_790_000_000.0
PROVIDERS = sorted(READERS)
MEGABYTE = 1024 * 1024

# the words of the payloads, so that generated values take the readers' own ways
_NAMES = sorted({name for case in CASES for name in json.dumps(case.body).split('"')[1::2] if len(name) < 40})
_texts = st.sampled_from(_NAMES) | st.text(max_size=20)
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | _texts
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=6), max_leaves=25
)


def check(reading: Reading) -> None:
    """Check what every reading holds to: valid, bounded, packable, and timed near the time it was taken."""
    for receipt in reading.receipts:
        assert receipt.trusted
        assert receipt.job_id or receipt.message_id or receipt.provider_id or receipt.address
        assert (receipt.severity != "") == (receipt.kind == "bounced")
        assert abs(receipt.at - TAKEN_AT) <= 366 * 86400
        assert len(receipt.words) <= LONGEST_RECEIPT_WORDS
        assert max(map(len, (receipt.job_id, receipt.message_id, receipt.provider_id, receipt.address))) <= 512
        orjson.dumps(msgspec.to_builtins(receipt))
    pack_event(Receipts(list(reading.receipts)))
    reading.problem.encode()


@pytest.mark.parametrize("provider", PROVIDERS)
@given(value=_values)
def test_any_value_is_read(provider: str, value: Any) -> None:
    """Any JSON, with NaN, surrogates and the providers' own names in the wrong places, is a reading."""
    check(READERS[provider](json.dumps(value).encode(), TAKEN_AT))


@pytest.mark.parametrize("provider", PROVIDERS)
@given(body=st.binary(max_size=200))
def test_any_bytes_are_read(provider: str, body: bytes) -> None:
    """Any bytes are a reading, and those that are no JSON are a problem."""
    reading = READERS[provider](body, TAKEN_AT)
    check(reading)
    if not _is_json(body):
        assert reading.problem
        assert not reading.receipts


def _is_json(body: bytes) -> bool:
    try:
        parse_json(body)
    except UnreadableError:
        return False
    return True


@pytest.mark.parametrize("provider", PROVIDERS)
@given(data=st.data())
def test_payload_with_another_type_somewhere(provider: str, data: st.DataObject) -> None:
    """A real payload in which some values have been replaced is a reading."""
    case = data.draw(st.sampled_from([one for one in CASES if one.provider == provider]))
    mutated = _replaced(case.body, lambda: data.draw(st.integers(0, 5)) == 0, lambda: data.draw(_values))
    check(READERS[case.provider](json.dumps(mutated).encode(), TAKEN_AT))


def _replaced(value: Any, chosen: Callable[[], bool], draw: Callable[[], Any]) -> Any:
    if chosen():
        return draw()
    if isinstance(value, list):
        return [_replaced(one, chosen, draw) for one in value]
    if isinstance(value, dict):
        return {key: _replaced(one, chosen, draw) for key, one in value.items()}
    return value


HOSTILE = {
    "deep lists": b"[" * 500_000 + b"]" * 500_000,
    "deep objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep entries": b'{"entry":[{"changes":' + b"[" * 1000 + b"]" * 1000 + b"}]}",
    "open lists": b"[" * MEGABYTE,
    "long number": b"[" + b"9" * MEGABYTE + b"]",
    "long number as a time": b'[{"event":"delivered","smtp-id":"<a>","timestamp":' + b"9" * 4000 + b"}]",
    "long exponent": b'[{"event":"delivered","smtp-id":"<a>","timestamp":1e' + b"9" * 4000 + b"}]",
    "not a number": b'[{"event":"delivered","smtp-id":"<a>","timestamp":NaN}]',
    "infinite": b'[{"event":"delivered","smtp-id":"<a>","timestamp":-Infinity}]',
    "many numbers": b"[" + b"1," * (MEGABYTE // 2) + b"1]",
    "many empty objects": b"[" + b"{}," * (MEGABYTE // 3) + b"{}]",
    "many statuses": b'{"entry":[{"changes":[{"value":{"statuses":[' + b"{}," * 200_000 + b"{}]}}]}]}",
    "long words": b'[{"event":"bounce","type":"bounce","smtp-id":"<a>","reason":"550 ' + b"a " * MEGABYTE + b'"}]',
    "long codes": b'[{"event":"bounce","type":"bounce","smtp-id":"<a>","reason":"' + b"5.1." * MEGABYTE + b'"}]',
    "long name": b'[{"event":"' + b"x" * MEGABYTE + b'"}]',
    "long address": b'[{"event":"delivered","smtp-id":"<a>","email":"' + b"<" * MEGABYTE + b'"}]',
    "long job": b'[{"event":"delivered","kurir_job":"a:' + b"1" * MEGABYTE + b':email"}]',
    "escapes": b'["' + b"\\ud800" * (MEGABYTE // 6) + b'"]',
    "bytes of no charset": b"\xff\xfe" + bytes(range(256)) * 4096,
    "zeros": bytes(MEGABYTE),
    "nested texts": json.dumps({"Type": "Notification", "Message": json.dumps({"Message": "[" * MEGABYTE})}).encode(),
    "a message in a message": json.dumps({"Type": "Notification", "Message": "[" * MEGABYTE}).encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_body(name: str) -> None:
    """Depth, huge numbers, NaN and endless text are a reading for every provider."""
    for provider in PROVIDERS:
        check(READERS[provider](HOSTILE[name], TAKEN_AT))


def _repeated(case: Any, times: int) -> bytes:
    body = case.body
    if case.provider in {"meta", "qiscus"} and isinstance(body, dict) and "entry" in body:
        return json.dumps({**body, "entry": body["entry"] * times}).encode()
    return json.dumps((body if isinstance(body, list) else [body]) * times).encode()


LARGE = [case for case in CASES if case.receipts and case.provider != "ses"]


@pytest.mark.cost
@pytest.mark.parametrize("case", LARGE, ids=[f"{case.provider}: {case.name}" for case in LARGE])
def test_time_is_in_proportion(case: Any) -> None:
    """Eight times the events take at most twenty times as long."""
    small, large = _repeated(case, 100), _repeated(case, 800)
    spent = []
    for body in (small, large):
        took = []
        for _ in range(3):
            began = time.thread_time()
            READERS[case.provider](body, case.taken_at)
            took.append(time.thread_time() - began)
        spent.append(min(took))
    assert spent[1] < 20 * spent[0] + 0.01
