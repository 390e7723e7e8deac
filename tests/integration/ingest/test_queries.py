"""Query parameters: every call uses the known ones and refuses unknown ones."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest
from redis.asyncio import Redis

from services.ingest.api.operations import OPERATIONS
from services.ingest.http.app import paths_of
from services.ingest.http.operation import Operation
from tests.integration.ingest.running import Api, RunningIngest, person
from tests.integration.ingest.test_blasts import BLAST, queued

CLOSED = [one for one in OPERATIONS if not one.open_query]


@pytest.mark.parametrize("operation", CLOSED, ids=[one.name for one in CLOSED])
async def test_an_unknown_query_parameter_is_refused_on_every_call(operation: Operation, api: Api) -> None:
    """The answer is 400 `INVALID_QUERY` with its name, under both prefixes; nothing else is done."""
    for path in paths_of(operation):
        reply = await api.call(operation.method, re.sub(r"\{\w+\}", "x", path), params={"bogus": "1"})
        assert (reply.status, reply.body["code"]) == (400, "INVALID_QUERY"), reply.text
        assert "'bogus'" in reply.body["message"]
        assert reply.problem("bogus") == "INVALID_QUERY"


@pytest.mark.parametrize(
    "query", ["channels=email&channels=whatsapp", "dryRun=true&dryRun=false", "metadata.run=a&metadata.run=b"]
)
async def test_a_parameter_that_is_given_twice_is_refused(query: str, api: Api, redis: Redis) -> None:
    """Only one of its values would be used: a channel would get nothing, or a dry run would be sent."""
    table = b"name,email,phone,code\nSiti,s@example.com,081224770000,1\n"
    rest = "".join(f"&{one}" for one in ("templateId=otp", "channels=email") if one.split("=")[0] not in query)
    reply = await api.post(f"{BLAST}?{query}{rest}", data=table, headers={"Content-Type": "text/csv"})
    assert (reply.status, reply.body["code"]) == (400, "INVALID_QUERY"), reply.text
    name = query.partition("=")[0]
    assert reply.problem(name) == "INVALID_QUERY"
    assert f"{name!r} is given more than once" in reply.body["message"]
    assert await queued(redis) == []


async def test_a_filter_with_two_values_is_refused(api: Api) -> None:
    """The others would be left out without a word; a list is separated by commas."""
    for path in ("/api/logs/messages?status=failed&status=sent", "/api/blasts?state=completed&state=scheduled"):
        reply = await api.get(path)
        assert (reply.status, reply.body["code"]) == (400, "INVALID_QUERY"), reply.text
        assert "separate them by commas" in reply.body["message"]


async def test_a_time_with_a_plus_that_is_not_escaped_is_read(api: Api) -> None:
    """`+07:00` arrives as ` 07:00`, since a plus in a query is a space."""
    table = b"name,email,code\nSiti,s@example.com,1\n"
    at = datetime.now(timezone(timedelta(hours=7))).replace(microsecond=0) + timedelta(days=1)
    path = f"{BLAST}?templateId=otp&channels=email&scheduledAt={at.isoformat()}"
    reply = await api.post(path, data=table, headers={"Content-Type": "text/csv"})
    assert reply.status == 202, reply.text
    state = (await api.get(f"/api/blasts/{reply.body['blastId']}")).body["blast"]
    assert datetime.fromisoformat(state["scheduledAt"]) == at


async def test_a_filter_longer_than_any_value_is_refused(api: Api) -> None:
    """It is reported as the client's mistake, not as an unavailable logger, which cannot read such a long line."""
    reply = await api.get("/api/blasts?limit=5&reference=" + "%ff" * 2500)
    assert (reply.status, reply.body["code"]) == (400, "INVALID_QUERY"), reply.text
    assert reply.problem("reference") == "INVALID_QUERY"


def test_only_what_others_call_takes_any_parameter() -> None:
    """Mail programs, link trackers, providers and the console add their own, which must not prevent what they call."""
    paths = {one.path for one in OPERATIONS if one.open_query}
    assert paths == {"/u/{token}", "/hooks/{provider}/{token}", "/hooks/meta/{token}", "/console/{page}"}


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/api/logs/messages?stauts=failed", "did you mean 'status'?"),
        ("/api/logs/messages?errorclass=x", "did you mean 'error_class'?"),
        ("/api/logs/api?methd=GET", "did you mean 'method'?"),
        ("/api/blasts?references=x", "did you mean 'reference'?"),
        ("/api/suppressions?chanel=email", "did you mean 'channel'?"),
        ("/api/suppressions?zzz=1", "use channel"),
        ("/api/dashboard?limit=5", "takes none"),
        ("/health?verbose=1", "takes none"),
    ],
)
async def test_the_nearest_known_name_is_suggested(path: str, hint: str, api: Api) -> None:
    """Where no name is near, the message lists the known ones."""
    assert hint in (await api.get(path)).body["message"]


async def test_a_misspelt_dry_run_of_a_csv_file_sends_nothing(api: Api) -> None:
    """It is refused like every other query parameter."""
    query = {"templateId": "otp", "channels": "email", "dryrun": "true"}
    table = b"name,email,code\nSiti,s@example.com,1\n"
    reply = await api.post(BLAST, data=table, headers={"Content-Type": "text/csv"}, params=query)
    assert (reply.status, reply.body["code"]) == (400, "INVALID_QUERY")
    assert "did you mean 'dryRun'?" in reply.body["message"]


async def test_a_blast_in_a_body_takes_nothing_from_the_query(api: Api) -> None:
    """`?dryRun=true` with a JSON body is refused: if it were ignored, the blast would be sent."""
    reply = await api.post(
        f"{BLAST}?dryRun=true", {"templateId": "otp", "channels": ["email"], "recipients": [person()]}
    )
    assert (reply.status, reply.body["code"]) == (400, "INVALID_QUERY")
    assert "text/csv only" in reply.body["message"]


async def test_parameters_with_a_name_chosen_by_the_client_are_known(api: Api, ingest: RunningIngest) -> None:
    """`globalVariables.<name>` and `metadata.<name>` are accepted with any name."""
    query = {
        "templateId": "otp", "channels": "email", "globalVariables.minutes": "7", "metadata.run": "a", "dryRun": "1",
    }  # fmt: skip
    table = b"name,email,code\nSiti,s@example.com,1\n"
    reply = await api.post(BLAST, data=table, headers={"Content-Type": "text/csv"}, params=query)
    assert reply.status == 200, reply.text
    ingest.peers.answers["GET /api/blasts"] = (200, {"success": True, "blasts": [], "nextCursor": None})
    assert (await api.get("/api/blasts?metadata.run=a&limit=5")).status == 200
