"""Webhooks over the logger's HTTP, with the real process: created, fed, reported, tested, replayed and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from shared.events import Ended, Event, EventBatch, Retrying, Sent, pack_batch
from shared.jobs import Job, unpack_job
from shared.queue.connection import connect
from shared.queue.control import Control
from shared.queue.keys import PartitionKeys
from shared.queue.webhooks import Endpoints, webhook_partition
from shared.webhooks import open_secret
from tests.integration.logger.recording import STREAM
from tests.integration.logger.service import LoggerProcess
from tests.integration.logger.webhooks.feeding import SEAL
from tests.servers import RedisServer, wait_for
from tests.unit.logger.database import accepted, blast, queued, sent

WANTED = {"url": "https://example.com/hook", "events": ["message.sent", "webhook.disabled"]}
_NUMBERS = iter(range(1, 1_000_000))


@pytest.fixture
async def redis(own_redis: RedisServer) -> AsyncIterator[Redis]:
    """Return a connection to the server of this module's logger."""
    client = connect(own_redis.url)
    yield client
    await client.aclose()


@pytest.fixture
def webhook(logger: LoggerProcess) -> dict[str, Any]:
    """Return a new webhook; those of other tests are deleted."""
    for one in logger.get("/webhooks")[1]["webhooks"]:
        assert logger.delete(f"/webhooks/{one['id']}")[0] == 200
    status, body = logger.post("/webhooks", WANTED)
    assert status == 201, body
    shown: dict[str, Any] = body["webhook"]
    return shown


async def send(redis: Redis, *indexes: int) -> None:
    """Let messages be sent."""
    number = next(_NUMBERS)
    events: list[Event] = [accepted(blast(f"b{number}")), queued(indexes, f"b{number}")]
    events += [sent(index, f"b{number}") for index in indexes]
    await redis.xadd(STREAM, {"d": pack_batch(EventBatch("sender", number, events))})


async def number_of(redis: Redis, webhook_id: str) -> int:
    """Wait until senders see a webhook; return its number."""

    async def find() -> int:
        found, _ = await Endpoints(redis).load()
        return next((one.number for one in found if one.endpoint_id == webhook_id), 0)

    return await wait_for(find)


async def jobs(redis: Redis, number: int, least: int) -> list[Job]:
    """Wait until a number of deliveries are in the queue of a webhook; return all."""

    async def find() -> list[Job]:
        entries: Any = await redis.xrange(PartitionKeys("webhook", number).lane("normal"))
        found = [unpack_job(fields[b"d"]) for _, fields in entries]
        return found if len(found) >= least else []

    return await wait_for(find)


async def say(redis: Redis, number: int, *events: Any) -> None:
    """Report about deliveries, as a sender does."""
    batch = EventBatch("webhook sender", next(_NUMBERS), list(events))
    await redis.xadd(PartitionKeys("webhook", number).events, {"d": pack_batch(batch)})


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


async def test_a_delivery_is_followed_to_its_end(logger: LoggerProcess, redis: Redis, webhook: dict[str, Any]) -> None:
    """From the event of a message to the receiver's answer; the reports are read and acknowledged."""
    number = await number_of(redis, webhook["id"])
    path = f"/webhooks/{webhook['id']}"
    await send(redis, 0, 1, 2)
    first, second, third = await jobs(redis, number, 3)
    assert orjson.loads(first.recipient.variables["body"])["type"] == "message.sent"
    at = now_ms()
    await say(redis, number, Sent(at, first.job_id, 1, 1, first.recipient.name, "204 No Content", 12))
    await say(redis, number, Retrying(at, second.job_id, 1, 1, "transient", "503", "busy", 7, at + 5000))
    await say(redis, number, Ended(at, third.job_id, 1, 10, "failed", "transient", "timeout", "no answer", 15_000))

    def listed() -> dict[str, Any]:
        found = logger.get(f"{path}/deliveries")[1]["deliveries"]
        return {one["id"]: one for one in found if one["status"] != "waiting"}

    await wait_for(lambda: len(listed()) == 3)
    shown = listed()
    delivered, retrying, failed = (shown[job.recipient.name] for job in (first, second, third))
    assert (delivered["status"], delivered["responseStatus"], delivered["attempts"]) == ("delivered", 204, 1)
    assert (retrying["status"], retrying["responseStatus"], retrying["error"]) == ("retrying", 503, "busy")
    assert retrying["nextAttemptAt"] is not None
    assert (failed["status"], failed["responseStatus"], failed["error"]) == ("failed", None, "no answer")
    assert [one["id"] for one in logger.get(f"{path}/deliveries?status=failed")[1]["deliveries"]] == [failed["id"]]
    about = logger.get(path)[1]["webhook"]
    assert (about["waiting"], about["enabled"]) == (1, True)
    assert about["lastDeliveredAt"] is not None
    await wait_for(lambda: _is_acknowledged(redis, number))
    assert logger.get("/api/logs/messages/stats")[1]["stats"]["failed"] == 0


async def _is_acknowledged(redis: Redis, number: int) -> bool:
    return await redis.xlen(PartitionKeys("webhook", number).events) == 0


async def test_the_secret_is_shown_once_and_rotates(
    logger: LoggerProcess, redis: Redis, webhook: dict[str, Any]
) -> None:
    """Senders have the new one first, and the former one until its end."""
    await number_of(redis, webhook["id"])
    path = f"/webhooks/{webhook['id']}"
    assert "secret" not in str(logger.get(path)[1])
    own = "whsec_" + "QUJD" * 10
    status, body = logger.post(f"{path}/rotate", {"secret": own})
    assert (status, body["secret"]) == (200, own)
    ends_in = datetime.fromisoformat(body["oldSecretEndsAt"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=55) < ends_in <= timedelta(hours=24)

    async def both() -> bool:
        found, _ = await Endpoints(redis).load()  # one of another test may still be there
        (one,) = (each for each in found if each.endpoint_id == webhook["id"])
        return len(one.secrets) == 2 and open_secret(one.secrets[0], SEAL) == own and one.secret_ends_ms[0] == 0

    await wait_for(both)


async def test_a_stopped_webhook_says_why_and_continues(
    logger: LoggerProcess, redis: Redis, webhook: dict[str, Any]
) -> None:
    """A sender pauses its partition after 410; enabled again, it gets all since, and a replay what it had."""
    number, path = await number_of(redis, webhook["id"]), f"/webhooks/{webhook['id']}"
    other = logger.post("/webhooks", {**WANTED, "events": ["webhook.disabled"]})[1]["webhook"]
    began = datetime.now(UTC).isoformat()
    await send(redis, 0)
    (first,) = await jobs(redis, number, 1)
    await Control(redis, "a sender").pause_partitions([webhook_partition(redis, number)], "410 Gone")
    await wait_for(lambda: not logger.get(path)[1]["webhook"]["enabled"])
    shown = logger.get(path)[1]["webhook"]
    assert shown["disabledReason"] == "410 Gone"
    (told,) = await jobs(redis, await number_of(redis, other["id"]), 1)
    assert orjson.loads(told.recipient.variables["body"])["data"]["webhookId"] == webhook["id"]
    assert logger.post(f"{path}/test", {})[1]["code"] == "WEBHOOK_DISABLED"
    await send(redis, 1, 2)
    await wait_for(lambda: logger.get(path)[1]["webhook"]["waiting"] == 3)
    assert len(await jobs(redis, number, 1)) == 1
    assert logger.patch(path, {"enabled": True})[1]["webhook"]["disabledReason"] is None
    assert len(await jobs(redis, number, 3)) == 3
    status, body = logger.post(f"{path}/test", {})
    assert status == 202
    assert (await jobs(redis, number, 4))[-1].recipient.name == body["deliveryId"]
    status, body = logger.post(f"{path}/replay", {"from": began})
    assert (status, body["events"]) == (202, 3)
    again = await jobs(redis, number, 7)
    assert [job.recipient.name for job in again[4:]] == [job.recipient.name for job in again[:3]]
    assert again[4].recipient == first.recipient


async def test_five_days_of_failures_disable_a_webhook(
    logger: LoggerProcess, redis: Redis, webhook: dict[str, Any]
) -> None:
    """With the time of its first failure; the reports alone decide, so the time that passes here does not matter."""
    number, path = await number_of(redis, webhook["id"]), f"/webhooks/{webhook['id']}"
    await send(redis, 0, 1)
    first, second = await jobs(redis, number, 2)
    at, days = now_ms() + 1000, 86_400_000

    def refused(job: Job, day: float) -> Retrying:
        when = at + round(day * days)
        return Retrying(when, job.job_id, 1, 1, "transient", "500", "broken", 7, when + 5000)

    await say(redis, number, *(refused(first, day) for day in (0, 1, 2, 3, 4.9)))
    await wait_for(lambda: logger.get(path)[1]["webhook"]["failingSince"])
    assert logger.get(path)[1]["webhook"]["enabled"]
    await say(redis, number, refused(second, 5))
    await wait_for(lambda: not logger.get(path)[1]["webhook"]["enabled"])
    shown = logger.get(path)[1]["webhook"]
    assert shown["disabledReason"] == "nothing but failures for 5 days"
    assert datetime.fromisoformat(shown["failingSince"]).timestamp() * 1000 == pytest.approx(at, abs=1)


def test_what_is_wrong_is_refused(logger: LoggerProcess, webhook: dict[str, Any]) -> None:
    """With a code, and without effect."""
    path = f"/webhooks/{webhook['id']}"
    assert logger.get("/webhooks/wh_unknown")[1]["code"] == "WEBHOOK_NOT_FOUND"
    for call, body in (("rotate", {}), ("test", {}), ("replay", {"from": "2026-01-01T00:00:00Z"})):
        assert logger.post(f"/webhooks/wh_unknown/{call}", body)[0] == 404
    assert logger.post(f"{path}/replay", {})[1]["code"] == "INVALID_QUERY"
    assert logger.post(f"{path}/replay", {"from": "yesterday"})[0] == 400
    assert logger.patch(path, {"number": 5})[0] == 400
    assert logger.post("/webhooks", {"url": 5, "events": []})[0] == 400
    assert logger.get(f"{path}/deliveries?status=sent")[0] == 400
    assert logger.get(path)[1]["webhook"] == webhook
    assert logger.call("/webhooks", None, {"Authorization": "Bearer wrong"})[0] == 401


def test_metrics_count_webhooks(logger: LoggerProcess, webhook: dict[str, Any]) -> None:
    """Each state has a series from the start."""
    assert logger.patch(f"/webhooks/{webhook['id']}", {"enabled": False})[0] == 200
    found = logger.metrics()
    assert {f'kurir_webhooks{{state="{state}"}}' for state in ("enabled", "failing", "disabled", "off")} <= found.keys()
    assert found.keys() >= {
        'kurir_webhook_deliveries_total{status="delivered"}', 'kurir_webhook_deliveries_total{status="failed"}',
        "kurir_webhook_failing_seconds", "kurir_webhook_events_waiting", "kurir_webhook_events_total",
        "kurir_webhook_events_expired_total",
    }  # fmt: skip
