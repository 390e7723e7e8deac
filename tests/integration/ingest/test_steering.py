"""Control of running blasts, jobs and channels, and their state in the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from services.ingest.suppressions.views import suppression_id
from shared.queue.control import Control
from shared.sending.job_limits import JobLimit
from tests.integration.ingest.running import Api, Peers, person
from tests.integration.ingest.test_blasts import queued
from tests.integration.queue.world import World

NEVER = "0123456789abcdef"


async def _blast(api: Api, count: int = 2, **head: Any) -> str:
    return str((await api.blast(*map(person, range(count)), **head)).body["blastId"])


async def _state(api: Api, blast_id: str) -> dict[str, Any]:
    state: dict[str, Any] = (await api.get(f"/api/blasts/{blast_id}")).body["blast"]
    return state


async def test_a_blast_is_paused_and_resumed(api: Api) -> None:
    """Both calls are repeated; the reason is shown as what the blast waits for; its counts always add up."""
    blast_id = await _blast(api)
    for _ in range(2):
        assert (await api.post(f"/api/blasts/{blast_id}/pause", {"reason": "typo in it"})).status == 200
    state = await _state(api, blast_id)
    assert (state["state"], state["waitingFor"]) == ("paused", "paused: typo in it")
    assert sum(state["counts"].values()) == state["totalMessages"] == 2
    for _ in range(2):
        assert (await api.post(f"/api/blasts/{blast_id}/resume")).status == 200
    state = await _state(api, blast_id)
    assert (state["state"], state["waitingFor"]) == ("running", "no_senders")


async def test_a_blast_and_a_message_say_that_they_wait_for_a_domains_limit(api: Api, redis: Redis) -> None:
    """The blast says so while any of its messages waits for it, the message with its place in the limit's list."""
    blast_id = await _blast(api, 4)
    sender = await World(redis).sender()
    sender.limit_of = lambda _job: JobLimit("example.com", 60_000_000)
    assert await sender.obey(await sender.fetch(3)) == ["granted", "beyond", "beyond"]

    async def waits_for(index: int) -> str | None:
        reply = await api.get(f"/api/messages/{blast_id}:{index}:email")
        found: str | None = reply.body["message"].get("waiting_for")
        return found

    assert (await _state(api, blast_id))["waitingFor"] == "domain_limited"
    expected = [None, "domain_limited: example.com, 0 before it", "domain_limited: example.com, 1 before it", None]
    assert [await waits_for(index) for index in range(4)] == expected
    assert (await api.post(f"/api/blasts/{blast_id}/cancel")).status == 200
    assert (await _state(api, blast_id))["waitingFor"] is None


async def test_a_cancelled_blast_stays_cancelled(api: Api, redis: Redis) -> None:
    """A repeated call succeeds; nothing waits any more; the blast can be neither paused nor resumed."""
    blast_id = await _blast(api)
    for _ in range(2):
        assert (await api.post(f"/api/blasts/{blast_id}/cancel")).status == 200
    assert await queued(redis) == []
    state = await _state(api, blast_id)
    assert (state["state"], state["counts"]["cancelled"], state["progress"]) == ("cancelled", 2, 1.0)
    assert state["endedAt"]
    for change in ("pause", "resume"):
        reply = await api.post(f"/api/blasts/{blast_id}/{change}")
        assert (reply.status, reply.body["code"]) == (409, "BLAST_ENDED")


async def test_a_finished_blast_cannot_be_cancelled(api: Api, redis: Redis) -> None:
    """The same holds for one that only the log knows; one that neither knows is not found."""
    blast_id = await _blast(api)
    sender = await World(redis).sender()
    await sender.finish(*await sender.take())
    assert (await _state(api, blast_id))["state"] == "completed"
    assert (await api.post(f"/api/blasts/{blast_id}/cancel")).body["code"] == "BLAST_ENDED"
    assert (await api.post(f"/api/blasts/{NEVER}/cancel")).body["code"] == "BLAST_NOT_FOUND"


async def test_a_blast_that_redis_has_forgotten_is_shown_from_the_log(api: Api, peers: Peers) -> None:
    """The logger's view is shown unchanged; the blast can no longer be controlled."""
    stored = {"success": True, "blast": {"blastId": NEVER, "state": "completed"}}
    peers.answers[f"GET /api/blasts/{NEVER}"] = (200, stored)
    assert (await api.get(f"/api/blasts/{NEVER}")).body == stored
    assert (await api.post(f"/api/blasts/{NEVER}/pause")).body["code"] == "BLAST_ENDED"


async def test_lists_show_the_live_state_of_running_blasts(api: Api, peers: Peers) -> None:
    """The log's rows lag; the state in Redis replaces them. Filters are forwarded."""
    blast_id = await _blast(api, reference="order 7")
    rows = [{"blastId": blast_id, "state": "running"}, {"blastId": NEVER, "state": "completed"}]
    peers.answers["GET /api/blasts"] = (200, {"success": True, "blasts": rows, "nextCursor": "x"})
    reply = await api.get("/api/blasts?reference=order%207&limit=2")
    assert [one["blastId"] for one in reply.body["blasts"]] == [blast_id, NEVER]
    assert reply.body["blasts"][0]["totalMessages"] == 2
    assert reply.body["nextCursor"] == "x"
    assert ("GET /api/blasts", "reference=order 7&limit=2", b"") in peers.asked


async def test_a_running_blast_has_the_deliveries_of_the_log(api: Api, peers: Peers) -> None:
    """Only the log knows them: alone and in lists they are added to the live state, and are null without the log."""
    blast_id = await _blast(api)
    assert (await _state(api, blast_id))["delivery"] is None
    delivery = {"delivered": 3, "read": 0, "undelivered": 0, "bounced": 1, "complained": 0}
    row = {"blastId": blast_id, "state": "running", "channels": {"email": {"delivery": delivery}}}
    peers.answers[f"GET /api/blasts/{blast_id}"] = (200, {"success": True, "blast": row})
    peers.answers["GET /api/blasts"] = (200, {"success": True, "blasts": [row], "nextCursor": None})
    (listed,) = (await api.get("/api/blasts")).body["blasts"]
    for shown in (await _state(api, blast_id), listed):
        assert shown["delivery"] == shown["channels"]["email"]["delivery"] == delivery
        assert shown["totalMessages"] == 2
    peers.answers[f"GET /api/blasts/{blast_id}"] = (503, {"success": False, "code": "DATABASE_UNAVAILABLE"})
    assert (await _state(api, blast_id))["delivery"] is None


async def test_blasts_are_found_by_their_metadata(api: Api, peers: Peers) -> None:
    """Values of any type are compared as JSON writes them; pages without a match are skipped."""
    rows = [{"blastId": str(n), "state": "completed", "metadata": {"campaign": "spring", "n": n}} for n in range(3)]
    peers.answers["GET /api/blasts"] = (200, {"success": True, "blasts": rows, "nextCursor": None})
    reply = await api.get("/api/blasts?metadata.campaign=spring&metadata.n=2&template=otp")
    assert [one["blastId"] for one in reply.body["blasts"]] == ["2"]
    assert peers.asked[-1][1] == "template=otp"
    peers.answers["GET /api/blasts"] = (200, {"success": True, "blasts": rows, "nextCursor": "more"})
    peers.asked.clear()
    reply = await api.get("/api/blasts?metadata.campaign=autumn")
    assert (reply.body["blasts"], reply.body["nextCursor"]) == ([], "more")
    assert 2 <= len(peers.asked) <= 30


async def test_the_loggers_errors_are_forwarded(api: Api, peers: Peers) -> None:
    """A query that the logger refuses is reported as the client's mistake."""
    refused = {"success": False, "code": "INVALID_CURSOR", "message": "no such cursor", "errors": []}
    peers.answers["GET /api/blasts"] = (400, refused)
    reply = await api.get("/api/blasts?cursor=x")
    assert (reply.status, reply.body["code"], reply.body["message"]) == (400, "INVALID_CURSOR", "no such cursor")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (f"/api/blasts/{NEVER}/retry-failed", {"blastId": NEVER, "channel": "", "errorClass": "", "errorCode": None}),
        (f"/api/messages/{NEVER}:0:email/retry", {"jobId": f"{NEVER}:0:email"}),
    ],
)  # fmt: skip
async def test_dead_letters_are_reopened_by_the_logger(
    path: str, asked: dict[str, Any], api: Api, peers: Peers
) -> None:
    """Messages that may have been delivered are left out by default; the answer has the counts."""
    peers.answers["POST /internal/retry"] = (200, {"success": True, "reopened": 3, "skipped": 1})
    reply = await api.post(path, {"includeUncertain": True})
    assert (reply.status, reply.body["reopened"], reply.body["skipped"]) == (200, 3, 1)
    assert (await api.post(path)).status == 200
    bodies = [json.loads(body) for what, _, body in peers.asked if what == "POST /internal/retry"]
    assert bodies == [{**asked, "includeUncertain": True}, {**asked, "includeUncertain": False}]


async def test_a_blast_without_a_row_yet_gets_503(api: Api, peers: Peers) -> None:
    """It was accepted, so its client is asked to try again, not told that it is gone."""
    peers.answers["POST /internal/retry"] = (404, {"success": False, "code": "NOT_FOUND"})
    reply = await api.post(f"/api/blasts/{await _blast(api)}/retry-failed")
    assert (reply.status, reply.body["code"]) == (503, "LOGGER_UNAVAILABLE")
    reply = await api.post(f"/api/blasts/{NEVER}/retry-failed")
    assert (reply.status, reply.body["code"]) == (404, "BLAST_NOT_FOUND")


async def test_one_job_is_cancelled(api: Api, redis: Redis) -> None:
    """The other jobs stay."""
    blast_id = await _blast(api)
    assert (await api.post(f"/api/messages/{blast_id}:0:email/cancel")).status == 200
    assert [job.index for job in await queued(redis)] == [1]
    assert (await _state(api, blast_id))["counts"]["cancelled"] == 1


@pytest.mark.parametrize(("status", "code"), [("sent", "JOB_ENDED"), ("failed", "JOB_ENDED"), ("cancelled", "")])
async def test_the_log_is_queried_before_redis_is_searched(
    api: Api, redis: Redis, peers: Peers, status: str, code: str
) -> None:
    """Redis does not search the waiting jobs for it."""
    job_id = f"{await _blast(api)}:0:email"
    peers.answers[f"GET /api/messages/{job_id}"] = (200, {"message": {"job_id": job_id, "status": status}})
    client: Any = redis
    await client.config_resetstat()
    reply = await api.post(f"/api/messages/{job_id}/cancel")
    assert (reply.status, reply.body.get("code", "")) == ((409, code) if code else (200, ""))
    assert "cmdstat_xrange" not in await client.info("commandstats")


@pytest.mark.parametrize("answer", [(503, {}), (200, {"message": {"status": "queued"}})])
async def test_a_job_is_cancelled_even_if_the_log_lags(
    api: Api, redis: Redis, peers: Peers, answer: tuple[int, Any]
) -> None:
    """The log may be away, or not have its end yet: Redis knows."""
    job_id = f"{await _blast(api)}:0:email"
    peers.answers[f"GET /api/messages/{job_id}"] = answer
    assert (await api.post(f"/api/messages/{job_id}/cancel")).status == 200
    assert [job.index for job in await queued(redis)] == [1]


@pytest.mark.parametrize("status", ["", "scheduled", "processing"])
async def test_a_job_that_was_cancelled_just_now_has_ended(api: Api, peers: Peers, status: str) -> None:
    """It is neither unknown nor being sent, though the log does not have its end yet."""
    blast_id = await _blast(api)
    job_id = f"{blast_id}:0:email"
    if status:
        peers.answers[f"GET /api/messages/{job_id}"] = (200, {"message": {"job_id": job_id, "status": status}})
    assert (await api.post(f"/api/messages/{job_id}/cancel")).status == 200
    reply = await api.post(f"/api/messages/{job_id}/cancel")
    assert (reply.status, reply.body["code"]) == (409, "JOB_ENDED")


async def test_a_job_without_a_row_yet_is_queued(api: Api, peers: Peers) -> None:
    """The log lags, and an accepted job must never be unknown. A row that the log has is shown from there."""
    job_id = f"{await _blast(api)}:1:email"
    message = (await api.get(f"/api/messages/{job_id}")).body["message"]
    assert (message["job_id"], message["status"], message["template_id"]) == (job_id, "queued", "otp")
    assert (message["attempts"], message["history"]) == (0, [])
    row = {"job_id": job_id, "status": "sent", "attempts": 1, "history": []}
    peers.answers[f"GET /api/messages/{job_id}"] = (200, {"success": True, "message": row})
    assert (await api.get(f"/api/messages/{job_id}")).body["message"] == row


async def test_stats_count_jobs_by_place(api: Api, redis: Redis) -> None:
    """They are counted by channel and in total; messages held by a pause are counted separately."""
    await _blast(api, 3, channels=["email", "whatsapp"])
    await (await World(redis).sender()).take(1)
    assert (await api.post("/api/channels/whatsapp/pause", {"reason": "no credit"})).status == 200
    stats = (await api.get("/api/messages/stats")).body["stats"]
    assert (stats["waiting"], stats["active"], stats["paused"]) == (5, 1, 3)
    assert (stats["channels"]["email"]["waiting"], stats["channels"]["whatsapp"]["paused"]) == (2, 3)


async def test_channels_show_the_limit_in_force_and_its_source(api: Api, redis: Redis) -> None:
    """The senders' own setting, a limit set at run time, none, the setting again; null while no sender runs."""

    async def shown() -> tuple[str | None, str | None]:
        listed = {one["name"]: one for one in (await api.get("/api/channels")).body["channels"]}
        return listed["email"]["rate"], listed["email"]["rateSource"]

    assert await shown() == (None, None)
    for setting in ("off", "600/60s", "20/1s"):
        await (await World(redis).sender()).consumer.heartbeat({"rate": setting})
    assert await shown() == ("600/60s", "setting")
    for asked, rate in (("50/1s", "50/1s"), ("10/s", "10/1s"), ("off", "off")):
        reply = await api.call("PATCH", "/api/channels/email", json={"rate": asked})
        assert (reply.body["channel"]["rate"], reply.body["channel"]["rateSource"]) == (rate, "api")
        assert await shown() == (rate, "api")
    assert (await api.call("PATCH", "/api/channels/email", json={"rate": None})).status == 200
    assert await shown() == ("600/60s", "setting")


async def test_a_channel_is_paused_limited_and_resumed(api: Api, redis: Redis) -> None:
    """The change holds immediately for all its senders; the view shows the limit in force."""
    assert (await api.post("/api/channels/email/pause", {"reason": "maintenance"})).status == 200
    assert (await api.call("PATCH", "/api/channels/email", json={"rate": "7/1s"})).status == 200
    listed = {one["name"]: one for one in (await api.get("/api/channels")).body["channels"]}
    assert (listed["email"]["paused"], listed["email"]["rate"]) == ("maintenance", "7/1s")
    assert (listed["whatsapp"]["paused"], listed["whatsapp"]["configured"]) == (None, True)
    assert (listed["email"]["rateSource"], listed["whatsapp"]["rate"]) == ("api", None)
    assert (await api.post("/api/channels/email/resume")).status == 200
    stats = await Control(redis, "test").channel_stats("email")
    assert (stats.pause_reason, stats.rate_gap_us is not None) == ("", True)
    wrong = await api.call("PATCH", "/api/channels/email", json={"rate": "fast"})
    assert wrong.problem("rate") == "INVALID_VALUE"


async def test_providers_are_checked_through_their_senders(api: Api, peers: Peers) -> None:
    """The answer says whether it can be reached and accepts our credentials, with the sender's report."""
    peers.answers["GET /status"] = (200, {"reachable": True, "authenticated": False, "detail": "535"})
    for path in ("/api/smtp/status", "/api/whatsapp/status"):
        said = (await api.get(path)).body
        assert (said["reachable"], said["authenticated"], said["provider"]["detail"]) == (True, False, "535")


async def test_logs_are_forwarded_unchanged(api: Api, peers: Peers) -> None:
    """The query is forwarded too; an answer of many megabytes is streamed."""
    peers.answers["GET /api/logs/messages"] = (200, {"success": True, "logs": ["x" * 1000] * 3000})
    reply = await api.get("/api/v1/logs/messages?status=sent&limit=1000")
    assert len(reply.body["logs"]) == 3000
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["X-Request-Id"]
    assert ("GET /api/logs/messages", "status=sent&limit=1000", b"") in peers.asked


async def test_every_spelling_is_the_same_suppression(api: Api) -> None:
    """A mailbox is suppressed once, shown by its identity, and lifted by the id of any spelling."""
    spellings = ["Siti@Example.com", "siti@example.com", "SITI@EXAMPLE.COM"]
    replies = [await api.post("/api/suppressions", {"channel": "email", "address": one}) for one in spellings]
    assert [reply.status for reply in replies] == [201, 200, 200]
    assert {reply.body["suppression"]["address"] for reply in replies} == {"siti@example.com"}
    assert len((await api.get("/api/suppressions")).body["suppressions"]) == 1
    assert (
        await api.call("DELETE", f"/api/suppressions/{suppression_id('email', 'all', 'SITI@Example.com')}")
    ).status == 200
    assert (await api.get("/api/suppressions")).body["suppressions"] == []


async def test_suppressions_are_added_listed_and_lifted(api: Api) -> None:
    """They are listed in normal form; adding one twice is no error."""
    body = {"channel": "whatsapp", "address": "0812-1000-0000", "reason": "asked on the phone"}
    first = await api.post("/api/suppressions", body)
    assert (first.status, first.body["suppression"]["address"]) == (201, "6281210000000")
    assert (await api.post("/api/suppressions", body)).status == 200
    await api.post("/api/suppressions", {"channel": "email", "address": "a@example.com"})
    found, cursor = [], ""
    while True:
        page = (await api.get("/api/suppressions" + (f"?cursor={cursor}" if cursor else ""))).body
        found += [one["address"] for one in page["suppressions"]]
        if not (cursor := page["nextCursor"]):
            break
    assert found == ["a@example.com", "6281210000000"]
    path = f"/api/suppressions/{first.body['suppression']['id']}"
    assert (await api.call("DELETE", path)).status == 200
    assert (await api.call("DELETE", path)).status == 404
