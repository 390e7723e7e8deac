"""docs/webhooks.md: it has every event, its examples are events, and what it says about fields is what is accepted."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.ingest.webhooks.requests import WebhookRequest
from shared.webhooks import EVENT_TYPES, make_secret, sign

PAGE = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text("utf-8")
_EXAMPLES = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
_BY_HAND, _BY_PACKAGE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_type_of_event_is_described() -> None:
    """The table has each type that Kurir sends, and no other."""
    named = re.findall(r"^\| ((?:`[a-z]+\.[a-z]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    assert sorted(re.findall(r"`([^`]+)`", " ".join(named))) == sorted(EVENT_TYPES)


@pytest.mark.parametrize("text", _EXAMPLES)
def test_an_example_is_an_event(text: str) -> None:
    """It is JSON with a type that exists, a time and data; the events of a batch have an id as well."""
    example = json.loads(text)
    events = example["data"] if example["type"] == "batch" else [example]
    for event in events:
        assert {*event} - {"id"} == {"type", "timestamp", "data"}
        assert event["type"] in EVENT_TYPES
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
        assert ("id" in event) == (example["type"] == "batch")


def test_every_kind_of_event_has_an_example() -> None:
    """Of messages sent, failed and bounced; of blasts, channels, suppressions and webhooks."""
    kinds = {json.loads(text)["type"].partition(".")[0] for text in _EXAMPLES}
    assert kinds == {one.partition(".")[0] for one in EVENT_TYPES} | {"batch"}


def test_the_fields_of_a_webhook_are_described() -> None:
    """The table of fields has those that a request may have."""
    table = PAGE.partition("| field | meaning |")[2].partition("\n\n")[0]
    described = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(described) == sorted(field.encode_name for field in msgspec.structs.fields(WebhookRequest))


@pytest.mark.parametrize("forged", [False, True])
def test_the_code_that_checks_a_signature_does(forged: bool) -> None:
    """By hand and with the package, right after a rotation; a body that was changed is refused."""
    secret, now_s, body = make_secret(), int(time.time()), b'{"type":"webhook.test"}'
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now_s),
        "webhook-signature": sign([make_secret(), secret], "evt_1", now_s, body),
    }
    seen: dict[str, Any] = {
        "base64": base64, "hmac": hmac, "headers": headers, "body": body + b" " * forged, "secret": secret,
        "key": base64.b64decode(secret.removeprefix("whsec_")),
    }  # fmt: skip
    for code in (_BY_HAND, _BY_PACKAGE):
        exec(code, seen)
    assert seen["genuine"] is not forged
    assert ("event" in seen) is not forged
