"""The document and the service say the same: schemathesis calls every operation with what the schema allows and not.

Bounded by a number of examples, not by time, so that it claims the same on every machine.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.ingest.api.operations import OPERATIONS
from tests.integration.ingest.running import RunningIngest
from tests.integration.ingest.test_webhooks_api import SECRET, VIEW

_EXAMPLES = 8
_CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
_PAGE = {"success": True, "logs": [], "blasts": [], "nextCursor": None}
_LOGGER = {
    "GET /api/logs/messages": _PAGE,
    "GET /api/logs/messages/stats": {"success": True, "stats": {}},
    "GET /api/logs/api": _PAGE,
    "GET /api/logs/system": _PAGE,
    "GET /api/dashboard": {"success": True},
    "GET /api/blasts": _PAGE,
    "GET /webhooks": {"success": True, "webhooks": [VIEW]},
    "POST /webhooks": {"success": True, "webhook": VIEW, "secret": SECRET},
    "GET /status": {"reachable": True, "authenticated": True},
    "POST /internal/retry-matching": {"success": True, "matched": 0, "complete": True, "reopened": 0, "skipped": 0},
}


@schemathesis.serializer("application/x-ndjson", "text/csv")
def _as_it_is(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@pytest.fixture
def operations(ingest: RunningIngest) -> list[Any]:
    """Every operation of the served document; the logger answers with empty pages and knows no other webhook."""
    ingest.peers.unknown = "WEBHOOK_NOT_FOUND"
    ingest.peers.answers.update({asked: (200, body) for asked, body in _LOGGER.items()})
    with urllib.request.urlopen(f"{ingest.url}/openapi.json") as answer:
        document = json.load(answer)
    schema: Any = schemathesis.openapi.from_dict(document)
    return [found.ok() for found in schema.get_all_operations()]


def _aim(case: Any) -> None:
    """Name an existing template in every other body, so that the checks after that one are reached."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("templateId"), str) and len(repr(body)) % 2:
        body["templateId"] = "otp"
        if "channels" in body:
            body["channels"] = ["email"]
        if "channel" in body:
            body["channel"] = "email"


def _fuzz(operation: Any, mode: GenerationMode, url: str, session: requests.Session) -> Callable[[], None]:
    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        _aim(case)
        response = case.call(base_url=url, session=session, timeout=30)
        case.validate_response(response, checks=_CHECKS)

    return fuzz


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as_allowed", "as_not_allowed"]
)
def test_every_operation_answers_as_documented(
    ingest: RunningIngest, operations: list[Any], mode: GenerationMode
) -> None:
    """No 500, no undocumented status or content type, and no answer that violates its schema."""
    # an answer that never ends has tests of its own
    wanted = [one for one in operations if one.path != "/api/v1/events"]
    if mode is GenerationMode.NEGATIVE:
        # every string is a valid path, so no schema can refuse one
        wanted = [one for one in wanted if len(one.body) or len(one.query) or len(one.headers)]
    with requests.Session() as session:
        for operation in wanted:
            _fuzz(operation, mode, ingest.url, session)()
    assert len(operations) == len(OPERATIONS)
    assert len(wanted) == len(operations) - 1 if mode is GenerationMode.POSITIVE else len(wanted) >= 18
