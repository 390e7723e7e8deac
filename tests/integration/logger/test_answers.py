"""The logger's HTTP: logs, exports, message histories, blasts, the dashboard, and refusals."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import Any

import pytest

from shared.blasts import unpack_blast
from shared.events import ApiRequest, Event, EventBatch, Receipts, Retrying, SystemEvent, pack_batch
from shared.queue.connection import connect
from shared.queue.event_log import EventLog
from shared.queue.keys import PartitionKeys
from shared.queue.producer import Producer
from shared.queue.suppressions import Suppressions
from tests.integration.logger.service import LoggerProcess
from tests.names import mixed
from tests.servers import RedisServer, wait_for
from tests.unit.logger.database import START_MS, accepted, begun, blast, failed, queued, receipt, sent

BLAST = blast(total=120, reference="march", metadata={"team": "billing"})


def _events() -> list[Event]:
    retrying = Retrying(START_MS + 5, "b:1:email", 1, 1, "transient", "451 4.3.0", "451 try later", 3, START_MS + 2005)
    return [
        accepted(BLAST),
        queued(range(120)),
        *[sent(index, at=10 + index) for index in range(100) if index != 1],
        retrying,
        sent(1, attempt=2, at=3000),
        *[failed(index, at=10 + index) for index in range(100, 110)],
        begun(110),
        ApiRequest(START_MS, "/api/messages/blast", "POST", "127.0.0.1", "{}", 202, 12),
        ApiRequest(START_MS + 1, "/api/nothing", "GET", "127.0.0.1", "", 404, 1, "not found"),
        SystemEvent(START_MS, "error", "the provider refused us", "email_sender", {"code": "535"}),
        SystemEvent(START_MS, "warning", "slow", "ingest"),
    ]


RECEIPTS = [
    *[receipt("delivered", 30 + index, job_id=f"b:{index}:email") for index in range(40)],
    *[receipt("bounced", 90, job_id=f"b:{index}:email", severity="soft", code="4.2.2") for index in range(35, 38)],
    receipt("bounced", 95, job_id="b:1:email", severity="hard", code="5.1.1", words="no such user"),
    receipt("delivered", 40, provider_id="foreign"),
    receipt("delivered", 40, job_id="elsewhere:0:email"),
]


@pytest.fixture(scope="module")
def told(logger: LoggerProcess, own_redis: RedisServer) -> LoggerProcess:
    """Return a logger that has written the events of a blast."""

    async def tell() -> None:
        redis = connect(own_redis.url)
        try:
            await Producer(redis, "teller").emit(*_events())
            batch = EventBatch("receipts/email", 1, [Receipts(RECEIPTS)])
            await redis.xadd(PartitionKeys("email").events, {"d": pack_batch(batch)})
            await wait_for(lambda: _is_drained(EventLog(redis)), what="everything written")
        finally:
            await redis.aclose()

    asyncio.run(tell())
    return logger


async def _is_drained(events: EventLog) -> bool:
    return await events.lag() == 0


def _every(logger: LoggerProcess, path: str) -> list[dict[str, Any]]:
    """Return all rows of all pages."""
    rows: list[dict[str, Any]] = []
    cursor = ""
    while True:
        status, body = logger.get(f"{path}{'&' if '?' in path else '?'}cursor={cursor}")
        assert status == 200, body
        rows += body["logs"]
        cursor = body["nextCursor"]
        if not cursor:
            return rows


def test_pages_follow_one_another_without_gap_or_repetition(told: LoggerProcess) -> None:
    """Rows come latest first, 50 per page by default, until nextCursor is null."""
    status, body = told.get("/api/logs/messages")
    assert (status, len(body["logs"]), body["success"]) == (200, 50, True)
    ids = [row["id"] for row in _every(told, "/api/logs/messages?limit=7")]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == len(set(ids)) == 120


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("status=failed", 10),
        ("status=failed,processing", 11),
        ("channel=whatsapp", 0),
        ("recipient=user1@example.com", 1),
        ("recipient=user1", 31),
        ("blast=b&status=sent", 100),
        ("reference=march&status=failed", 10),
        ("template=reminder&error_class=permanent", 10),
        ("from=2026-09-21T00:00:00Z&to=2026-09-22T00:00:00%2B07:00", 120),
        ("to=2026-09-01T00:00:00Z", 0),
        ("from=2100-01-01T00:00:00Z", 0),
        ("to=9999-12-31T23:59:59-14:00", 120),
        ("from=9999-12-31T23:59:59-14:00", 0),
        ("delivery=bounced", 4),
        ("delivery=bounced,delivered", 40),
        ("delivery=delivered&blast=b&status=sent", 36),
        ("delivery=delivered&status=failed", 0),
    ],
)
def test_filters_find_the_matching_rows(told: LoggerProcess, query: str, count: int) -> None:
    """Single and combined filters find the right rows; stats with the same filters give the same count."""
    assert len(_every(told, f"/api/logs/messages?{query}&limit=9")) == count
    stats = told.get(f"/api/logs/messages/stats?{query}")[1]["stats"]
    assert (stats["total"], stats["complete"]) == (count, True)


def test_stats_count_by_status_and_channel(told: LoggerProcess) -> None:
    """Counts are given in total and by channel."""
    stats = told.get("/api/logs/messages/stats")[1]["stats"]
    expected = {"total": 120, "sent": 100, "failed": 10, "processing": 1, "queued": 9}
    assert {name: stats[name] for name in expected} == expected
    assert {name: stats["channels"]["email"][name] for name in expected} == expected


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/logs/messages?limit=0", "INVALID_QUERY"),
        ("/api/logs/messages?limit=1001", "INVALID_QUERY"),
        ("/api/logs/messages?status=delivered", "INVALID_QUERY"),
        ("/api/logs/messages?delivery=sent", "INVALID_QUERY"),
        ("/api/logs/messages?from=yesterday", "INVALID_QUERY"),
        ("/api/logs/messages?format=xml", "INVALID_QUERY"),
        ("/api/logs/messages?cursor=%00x", "INVALID_CURSOR"),
        ("/api/logs/messages?cursor=eyJhZnRlciI6LTF9", "INVALID_CURSOR"),
        ("/api/logs/system?level=loud", "INVALID_QUERY"),
        ("/api/logs/api?status=ok", "INVALID_QUERY"),
        ("/api/blasts?state=gone", "INVALID_QUERY"),
        ("/api/blasts?cursor=W10", "INVALID_CURSOR"),
    ],
)
def test_a_bad_parameter_is_refused_in_the_form_of_the_api(told: LoggerProcess, path: str, code: str) -> None:
    """Every bad parameter gives 400 with a code and a message."""
    status, body = told.get(path)
    assert (status, body["success"], body["code"]) == (400, False, code)
    assert body["message"]


def test_exports_contain_every_row(told: LoggerProcess) -> None:
    """CSV has a header row, NDJSON one object per line; filters apply to both."""
    table = list(csv.DictReader(io.StringIO(told.get("/api/logs/messages?format=csv&status=failed")[1])))
    assert [row["error_message"] for row in table] == ["no such user"] * 10
    lines = told.get("/api/logs/messages?format=ndjson")[1].splitlines()
    assert len({json.loads(line)["job_id"] for line in lines}) == 120
    bounced = list(csv.DictReader(io.StringIO(told.get("/api/logs/messages?format=csv&delivery=bounced")[1])))
    assert {(row["delivery"], row["job_id"]) for row in bounced} == {
        ("bounced", f"b:{index}:email") for index in (1, 35, 36, 37)
    }
    assert all(row["delivery_at"] for row in bounced)


def test_a_history_has_each_attempt_with_the_providers_words(told: LoggerProcess) -> None:
    """The history has the row, the failed attempt with the provider's reply, and the accepted attempt."""
    message = told.get("/api/messages/b:1:email")[1]["message"]
    assert (message["status"], message["attempts"]) == ("sent", 2)
    assert [(one["attempt"], one["outcome"], one["error_message"]) for one in message["history"]] == [
        (1, "retrying", "451 try later"),
        (2, "sent", None),
    ]
    assert [event["event"] for event in message["timeline"]] == ["queued", "retrying", "sent", "delivered", "bounced"]
    assert (message["delivery"]["status"], message["receipts"][1]["words"]) == ("bounced", "no such user")
    assert told.get("/api/messages/b:999:email")[1]["code"] == "JOB_NOT_FOUND"


@pytest.mark.parametrize("path", ["/api/messages/b:1:email", "/api/blasts/b", "/api/logs/messages", "/api/dashboard"])
def test_one_object_has_one_spelling(told: LoggerProcess, path: str) -> None:
    """An object and its children use either the log's column names or camelCase, never both."""
    _, body = told.get(path)
    assert body.pop("success")
    assert [found for value in body.values() for found in mixed(value)] == []


def test_attempts_are_a_number_and_history_their_list(told: LoggerProcess) -> None:
    """`attempts` is a number in the message, in lists, in exports and in the dashboard's failures."""
    message = told.get("/api/messages/b:1:email")[1]["message"]
    assert (message["attempts"], len(message["history"])) == (2, 2)
    assert {frozenset(one) for one in message["history"]} == {frozenset(message["history"][0])}
    rows = told.get("/api/logs/messages?status=failed")[1]["logs"]
    assert {row["attempts"] for row in rows} == {1}
    exported = csv.DictReader(io.StringIO(told.get("/api/logs/messages?format=csv&status=failed")[1]))
    assert {row["attempts"] for row in exported} == {"1"}
    failures = told.get("/api/dashboard")[1]["dashboard"]["recentFailures"]
    assert {row["attempts"] for row in failures} == {1}


def test_a_blast_has_its_counts_and_its_snapshot(told: LoggerProcess) -> None:
    """Ingest shows these once the blast has expired in Redis."""
    status, body = told.get("/api/blasts/b")
    shown = body["blast"]
    assert (status, shown["state"], shown["totalMessages"], shown["reference"]) == (200, "running", 120, "march")
    counts = {name: n for name, n in shown["channels"]["email"]["counts"].items() if n}
    assert counts == {"sent": 100, "failed": 10, "processing": 1, "queued": 9}
    assert shown["metadata"] == {"team": "billing"}
    delivery = {"delivered": 36, "read": 0, "undelivered": 0, "bounced": 4, "complained": 0}
    assert shown["delivery"] == shown["channels"]["email"]["delivery"] == delivery
    assert told.get("/api/logs/messages/stats?blast=b")[1]["stats"]["delivery"] == delivery
    assert unpack_blast(told.get("/internal/blasts/b/snapshot")[1]) == BLAST
    assert [one["blastId"] for one in told.get("/api/blasts?reference=march&state=running")[1]["blasts"]] == ["b"]
    assert told.get("/api/blasts/none")[0] == told.get("/internal/blasts/none/snapshot")[0] == 404


def test_requests_and_system_events_are_listed(told: LoggerProcess) -> None:
    """They can be listed by status, by level and by service."""
    assert [row["response_status"] for row in _every(told, "/api/logs/api")] == [404, 202]
    assert [row["endpoint"] for row in _every(told, "/api/logs/api?status=404")] == ["/api/nothing"]
    (row,) = _every(told, "/api/logs/system?level=error")
    assert (row["service"], json.loads(row["metadata"])) == ("email_sender", {"code": "535"})
    assert len(_every(told, "/api/logs/system?service=ingest")) == 1


def test_open_jobs_are_those_without_an_end(told: LoggerProcess) -> None:
    """The doctor gets queued and processing jobs that have not changed for the given time."""
    body = told.get("/internal/open-jobs?olderThanSeconds=0&limit=1000")[1]
    assert {job["status"] for job in body["jobs"]} == {"queued", "processing"}
    assert len(body["jobs"]) == 10
    assert told.get("/internal/open-jobs?olderThanSeconds=99999999")[1]["jobs"] == []


def test_the_dashboard_has_everything_in_one_answer(told: LoggerProcess) -> None:
    """It has queues, totals, failures, blasts, sizes and load."""
    shown = told.get("/api/dashboard")[1]["dashboard"]
    names = {"queued", "retrying", "deferred", "sent", "failed", "cancelled", "expired", "suppressed"}
    assert set(shown["totals"]) == {*names, "channels"}
    assert {name: set(one) for name, one in shown["totals"]["channels"].items()} == {"email": names, "whatsapp": names}
    assert set(shown["queues"]) == {"email", "whatsapp"}
    assert [one["errorClass"] for one in shown["recentFailures"]] == ["permanent"] * 10
    assert shown["blasts"][0]["blastId"] == "b"
    assert shown["redis"]["up"]
    assert shown["database"]["sizeBytes"] > 0
    assert shown["system"]["loggerMemoryBytes"] > 0
    assert {"cpuShare", "loadAverage", "memoryTotalBytes", "memoryAvailableBytes"} <= set(shown["system"])


async def test_receipts_become_metrics_and_a_suppression(told: LoggerProcess, own_redis: RedisServer) -> None:
    """The hard bounce's address is suppressed; what belongs to no message is counted apart."""
    redis = connect(own_redis.url)
    suppressions = Suppressions(redis)

    async def is_suppressed() -> bool:
        return bool(await suppressions.get("email", "user1@example.com"))

    await wait_for(is_suppressed)
    (found,) = await suppressions.get("email", "user1@example.com")
    assert (found.scope, found.reason, found.job_id) == ("all", "hard_bounce: 5.1.1", "b:1:email")
    assert len([one async for block in suppressions.every("email") for one in block]) == 1
    await redis.aclose()
    counted = 'kurir_receipts_total{channel="email",kind="bounced",provider="ses"}'
    await wait_for(lambda: told.metrics().get(counted) == 4)
    samples = told.metrics()
    assert samples['kurir_receipts_early{channel="email"}'] == 1
    assert samples['kurir_receipts_unmatched_total{channel="email"}'] == 1
    assert samples['kurir_receipt_delay_seconds_count{channel="email",kind="delivered"}'] == 40


def test_a_web_page_cannot_make_the_logger_write(told: LoggerProcess) -> None:
    """A browser page can send text to this machine, or use another name that resolves to it; both are refused."""
    plain = told.call("/internal/backup", b'{"path": "/tmp/x"}', {"Content-Type": "text/plain"})
    assert (plain[0], plain[1]["code"]) == (400, "INVALID_QUERY")
    foreign = told.call("/api/logs/messages", None, {"Host": "evil.example:80"})
    assert (foreign[0], foreign[1]["code"]) == (403, "FORBIDDEN")
