"""A blast's failures by reason, and sending one group of them again: ingest checks, the logger answers."""

from __future__ import annotations

import json

import pytest

from tests.integration.ingest.provocations import NEVER
from tests.integration.ingest.running import Api, Peers

PATH = f"/api/blasts/{NEVER}"
ROW = {"channel": "email", "errorClass": "permanent", "errorCode": "5.1.1", "count": 3, "example": "550 no such user"}


async def test_failures_are_the_loggers(api: Api, peers: Peers) -> None:
    """The groups come as the logger counted them; an unknown blast is 404."""
    assert (await api.get(f"{PATH}/failures")).body["code"] == "BLAST_NOT_FOUND"
    answer = {"success": True, "failures": [ROW], "complete": False}
    peers.answers[f"GET /api/blasts/{NEVER}/failures"] = (200, answer)
    found = await api.get(f"{PATH}/failures")
    assert (found.body["failures"], found.body["complete"]) == ([ROW], False)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({}, {"channel": "", "errorClass": "", "errorCode": None}),
        ({"channel": "email", "errorClass": "permanent"}, {"channel": "email", "errorClass": "permanent"}),
        ({"errorCode": ""}, {"errorCode": "", "errorClass": ""}),
    ],
)
async def test_a_group_is_handed_to_the_logger(
    api: Api, peers: Peers, body: dict[str, str], asked: dict[str, str | None]
) -> None:
    """No code and any code are different things."""
    peers.answers["POST /internal/retry"] = (200, {"success": True, "reopened": 3, "skipped": 1})
    found = await api.post(f"{PATH}/retry-failed", body)
    assert (found.body["reopened"], found.body["skipped"]) == (3, 1)
    sent = json.loads(next(raw for call, _, raw in peers.asked if call == "POST /internal/retry"))
    assert {name: sent[name] for name in asked} == asked


async def test_a_group_on_an_unknown_channel_or_of_an_unknown_class_is_refused(api: Api) -> None:
    """Those that exist are named."""
    found = await api.post(f"{PATH}/retry-failed", {"channel": "pigeon"})
    assert (found.status, found.body["code"]) == (422, "UNKNOWN_CHANNEL")
    found = await api.post(f"{PATH}/retry-failed", {"errorClass": "nope"})
    assert (found.status, found.body["code"]) == (422, "INVALID_VALUE")
    assert "use transient, " in found.body["message"]


async def test_all_that_matches_is_handed_to_the_logger_with_its_filter(api: Api, peers: Peers) -> None:
    """The filter is the query, as for a list; a wrong number is the client's to see."""
    answer = {"success": True, "matched": 7, "complete": True, "reopened": 6, "skipped": 1}
    peers.answers["POST /internal/retry-matching"] = (200, answer)
    found = await api.post("/api/messages/retry?blast=b&error_class=permanent", {"confirm": 7})
    assert found.body == answer
    call, query, raw = next(one for one in peers.asked if one[0] == "POST /internal/retry-matching")
    assert (call, query) == ("POST /internal/retry-matching", "blast=b&error_class=permanent")
    assert json.loads(raw) == {"confirm": 7, "includeUncertain": False}
    refusal = {"success": False, "code": "CONFIRMATION_MISMATCH", "message": "8 failed messages match", "errors": []}
    peers.answers["POST /internal/retry-matching"] = (409, refusal)
    refused = await api.post("/api/messages/retry", {"confirm": 7})
    assert (refused.status, refused.body["code"]) == (409, "CONFIRMATION_MISMATCH")
    assert (await api.post("/api/messages/retry?colour=red", {})).body["code"] == "INVALID_QUERY"


async def test_a_logger_of_an_earlier_version_is_reported(api: Api) -> None:
    """It does not have the call; its 404 says nothing about messages."""
    reply = await api.post("/api/messages/retry", {})
    assert (reply.status, reply.body["code"]) == (503, "LOGGER_UNAVAILABLE")
