"""Webhooks through the API: what is checked, what the logger is asked, and what of it stays secret."""

from __future__ import annotations

import base64
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.events import ApiRequest, unpack_batch
from tests.integration.ingest.conftest import READ_KEY, SEND_KEY, StartIngest
from tests.integration.ingest.running import Api, Peers, Reply, open_api
from tests.servers import wait_for

PATH = "/api/webhooks"
URL = "https://shop.example.com/kurir?key=hush"
SECRET = "whsec_" + base64.b64encode(b"a secret of the client's own....").decode()
VIEW = {
    "id": "wh_1",
    "url": URL,
    "events": ["message.sent"],
    "channels": [],
    "reference": "",
    "description": "",
    "batch": None,
    "enabled": True,
    "disabledReason": None,
    "failingSince": None,
    "createdAt": "2026-11-29T04:00:00.000Z",
    "updatedAt": "2026-11-29T04:00:00.000Z",
    "waiting": 0,
    "lastDeliveredAt": None,
}
DELIVERY = {
    "id": "evt_1",
    "type": "message.sent",
    "events": 1,
    "status": "retrying",
    "attempts": 2,
    "createdAt": "2026-11-29T04:00:00.000Z",
    "lastAttemptAt": "2026-11-29T04:00:05.000Z",
    "nextAttemptAt": "2026-11-29T04:05:05.000Z",
    "responseStatus": 500,
    "error": "the endpoint answered 500",
    "durationMs": 12,
}


def wanted(**changes: Any) -> dict[str, Any]:
    return {"url": URL, "events": ["message.sent"]} | changes


def asked(peers: Peers) -> list[tuple[str, str, Any]]:
    """Return what the logger was asked: method and path, query, body."""
    return [(call, query, json.loads(body) if body else None) for call, query, body in peers.asked]


async def add(api: Api, **changes: Any) -> Reply:
    return await api.post(PATH, wanted(**changes))


async def test_a_webhook_is_added_and_its_secret_shown_once(api: Api, peers: Peers) -> None:
    """The logger gets all fields with their defaults; the answer has the address of the webhook, and is not cached."""
    peers.answers["POST /webhooks"] = (201, {"success": True, "webhook": VIEW, "secret": SECRET})
    reply = await add(api, events=["message.sent", "message.sent", "*"], channels=["email", "email"], secret=SECRET)
    assert (reply.status, reply.body) == (201, {"success": True, "webhook": VIEW, "secret": SECRET})
    assert (reply.headers["Location"], reply.headers["Cache-Control"]) == ("/api/v1/webhooks/wh_1", "no-store")
    ((call, _, body),) = asked(peers)
    assert (call, body) == (
        "POST /webhooks",
        {"url": URL, "events": ["message.sent", "*"], "channels": ["email"], "reference": "", "description": "",
         "batch": None, "enabled": True, "secret": SECRET},
    )  # fmt: skip


async def test_batches_have_a_usual_wait(api: Api, peers: Peers) -> None:
    """`withinMs` is a second unless it is given."""
    peers.answers["POST /webhooks"] = (201, {"success": True, "webhook": VIEW, "secret": SECRET})
    for batch, sent in (({"max": 500}, 1000), ({"max": 1, "withinMs": 0}, 0)):
        assert (await add(api, batch=batch)).status == 201
        assert asked(peers)[-1][2]["batch"] == {"max": batch["max"], "withinMs": sent}


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"url": "http://shop.example.com/"}, "url", "INVALID_URL"),
        ({"url": "https://user:hush@shop.example.com/"}, "url", "INVALID_URL"),
        ({"url": "https://127.0.0.1/"}, "url", "INVALID_URL"),
        ({"url": "https://0x7f000001/"}, "url", "INVALID_URL"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "url", "INVALID_URL"),
        ({"url": "https://localhost/"}, "url", "INVALID_URL"),
        ({"url": "https://shop.example.com:6379/"}, "url", "INVALID_URL"),
        ({"url": "ftp://shop.example.com/"}, "url", "INVALID_URL"),
        ({"url": "shop"}, "url", "INVALID_URL"),
        ({"url": ""}, "url", "INVALID_VALUE"),
        ({"url": "https://shop.example.com/" + "x" * 2000}, "url", "TOO_LONG"),
        ({"url": 5}, "url", "INVALID_TYPE"),
        ({"events": []}, "events", "INVALID_VALUE"),
        ({"events": ["message.sent", "message.send"]}, "events[1]", "UNKNOWN_EVENT"),
        ({"events": ["webhook.test"]}, "events[0]", "UNKNOWN_EVENT"),
        ({"events": ["*"] * 100}, "events", "TOO_LONG"),
        ({"events": "message.sent"}, "events", "INVALID_TYPE"),
        ({"channels": ["email", "pigeon"]}, "channels[1]", "UNKNOWN_CHANNEL"),
        ({"channels": ["webhook"]}, "channels[0]", "UNKNOWN_CHANNEL"),
        ({"channels": ["email"] * 17}, "channels", "TOO_LONG"),
        ({"reference": "x" * 201}, "reference", "TOO_LONG"),
        ({"description": "x" * 501}, "description", "TOO_LONG"),
        ({"batch": {"max": 501}}, "batch.max", "INVALID_VALUE"),
        ({"batch": {"max": 0}}, "batch.max", "INVALID_VALUE"),
        ({"batch": {"max": 5, "withinMs": 60_001}}, "batch.withinMs", "INVALID_VALUE"),
        ({"batch": {"withinMs": 5}}, "batch.max", "REQUIRED"),
        ({"batch": {"max": 5, "within": 5}}, "batch.within", "UNKNOWN_FIELD"),
        ({"batch": 5}, "batch", "INVALID_TYPE"),
        ({"enabled": "yes"}, "enabled", "INVALID_TYPE"),
        ({"secret": "hush"}, "secret", "INVALID_SECRET"),
        ({"secret": "whsec_aHVzaA=="}, "secret", "INVALID_SECRET"),
        ({"secret": "whsec_" + "hush" * 50}, "secret", "TOO_LONG"),
        ({"signature": "v1"}, "signature", "UNKNOWN_FIELD"),
    ],
)
async def test_a_bad_field_is_named(changes: dict[str, Any], field: str, code: str, api: Api, peers: Peers) -> None:
    """The answer is 422 with the field's path; a new webhook and a change are checked alike; nothing is stored."""
    reply = await add(api, **changes)
    assert (reply.status, reply.problem(field)) == (422, code)
    assert "hush" not in reply.text
    if "secret" not in changes:
        assert (await api.call("PATCH", f"{PATH}/wh_1", json=changes)).problem(field) == code
    assert peers.asked == []


async def test_every_problem_is_in_one_answer(api: Api) -> None:
    """Problems of form and of value, of fields and of their parts."""
    reply = await api.post(
        PATH,
        {"url": "https://10.0.0.1/", "events": ["message.send", 5], "channels": ["pigeon", "sms"], "secret": "x",
         "batch": {"max": 0, "withinMs": -1, "size": 1}, "enabled": "yes", "reference": "r" * 201, "kind": "x"},
    )  # fmt: skip
    assert (reply.status, reply.body["code"]) == (422, "VALIDATION_FAILED")
    assert {one["field"]: one["code"] for one in reply.body["errors"]} == {
        "url": "INVALID_URL",
        "events[1]": "INVALID_TYPE",
        "channels[0]": "UNKNOWN_CHANNEL",
        "channels[1]": "UNKNOWN_CHANNEL",
        "secret": "INVALID_SECRET",
        "batch.max": "INVALID_VALUE",
        "batch.withinMs": "INVALID_VALUE",
        "batch.size": "UNKNOWN_FIELD",
        "enabled": "INVALID_TYPE",
        "reference": "TOO_LONG",
        "kind": "UNKNOWN_FIELD",
    }
    missing = await api.post(PATH, {"secret": "x"})
    assert {one["field"]: one["code"] for one in missing.body["errors"]} == {
        "url": "REQUIRED", "events": "REQUIRED", "secret": "INVALID_SECRET"
    }  # fmt: skip


async def test_a_body_has_a_limit(api: Api, peers: Peers) -> None:
    """No webhook needs more than 64 KB."""
    assert (await add(api, description="x" * 65_536)).body["code"] == "BODY_TOO_LARGE"
    assert (await api.call("PATCH", f"{PATH}/wh_1", json={"description": "x" * 65_536})).status == 413
    assert peers.asked == []


async def test_a_problem_says_what_to_do(api: Api) -> None:
    """What may be written instead, with a long name cut; a test event needs no subscription."""
    long = "message." + "x" * 90
    reply = await add(api, events=["webhook.test", long], channels=["pigeon"])
    said = {one["field"]: one["message"] for one in reply.body["errors"]}
    assert said["events[0]"] == "webhook.test goes to every webhook that is tested; it cannot be subscribed to"
    assert long not in said["events[1]"]
    assert said["channels[0]"] == "there is no channel 'pigeon': use email or whatsapp"


async def test_a_misspelt_event_has_a_hint(api: Api) -> None:
    """The nearest type, or all types where none is near."""
    near = (await add(api, events=["message.send"])).body["message"]
    assert near == "there is no event 'message.send'; did you mean 'message.sent'?"
    assert "message.complained, message.suppressed" in (await add(api, events=["nothing"])).body["message"]


async def test_an_internal_address_is_accepted_where_the_operator_allows_it(start_ingest: StartIngest) -> None:
    """KURIR_WEBHOOK_ALLOW opens networks and names, and http there; nothing else."""
    ingest = start_ingest("open to webhooks")
    ingest.peers.answers["POST /webhooks"] = (201, {"success": True, "webhook": VIEW, "secret": SECRET})
    async with AsyncExitStack() as stack:
        api = await open_api(stack, ingest.url)
        for url in (
            "https://10.1.2.3/",
            "http://10.1.2.3:9000/",
            "http://hooks.internal/",
            "https://shop.example.com/",
        ):
            assert (await add(api, url=url)).status == 201
        for url in ("https://192.168.0.1/", "http://shop.example.com/", "https://localhost/"):
            assert (await add(api, url=url)).problem("url") == "INVALID_URL"


async def test_only_what_is_given_is_changed(api: Api, peers: Peers) -> None:
    """`batch: null` is a change; a field that is left out stays as it is."""
    peers.answers["PATCH /webhooks/wh_1"] = (200, {"success": True, "webhook": VIEW})
    for patch in ({"batch": None}, {"enabled": False}, {"events": ["*"], "batch": {"max": 5, "withinMs": 1000}}, {}):
        reply = await api.call("PATCH", f"{PATH}/wh_1", json=patch)
        assert (reply.status, reply.body["webhook"]) == (200, VIEW)
        assert asked(peers)[-1] == ("PATCH /webhooks/wh_1", "", patch)
    twice = {"events": ["*", "*"], "channels": ["email", "email"]}
    await api.call("PATCH", f"{PATH}/wh_1", json=twice)
    assert asked(peers)[-1][2] == {"events": ["*"], "channels": ["email"]}
    assert (await api.call("PATCH", f"{PATH}/wh_1", json={"secret": SECRET})).problem("secret") == "UNKNOWN_FIELD"


async def test_webhooks_are_listed_shown_and_removed(api: Api, peers: Peers) -> None:
    """The answers are the logger's; fields that only a later logger knows are left out."""
    peers.answers["GET /webhooks"] = (200, {"success": True, "webhooks": [VIEW | {"later": 1}]})
    peers.answers["GET /webhooks/wh_1"] = (200, {"success": True, "webhook": VIEW})
    peers.answers["DELETE /webhooks/wh_1"] = (200, {"success": True})
    assert (await api.get(PATH)).body == {"success": True, "webhooks": [VIEW]}
    assert (await api.get(f"{PATH}/wh_1")).body["webhook"] == VIEW
    removed = await api.call("DELETE", f"{PATH}/wh_1")
    assert (removed.status, removed.body["success"]) == (200, True)
    assert removed.body["message"] == "the webhook is removed, with the events that it was not sent"


@pytest.mark.parametrize(("body", "sent"), [(None, {}), ({}, {}), ({"secret": SECRET}, {"secret": SECRET})])
async def test_a_secret_is_rotated(body: Any, sent: dict[str, str], api: Api, peers: Peers) -> None:
    """To one that Kurir makes, or to the client's own; the answer is not cached."""
    made = {"success": True, "secret": "whsec_new", "oldSecretEndsAt": "2026-11-30T04:00:00.000Z"}
    peers.answers["POST /webhooks/wh_1/rotate"] = (200, made)
    reply = await api.post(f"{PATH}/wh_1/rotate", body)
    assert (reply.status, reply.body, reply.headers["Cache-Control"]) == (200, made, "no-store")
    assert asked(peers)[-1][2] == sent
    assert (await api.post(f"{PATH}/wh_1/rotate", {"secret": "x"})).problem("secret") == "INVALID_SECRET"


async def test_a_test_event_is_sent(api: Api, peers: Peers) -> None:
    """The answer has the id under which the endpoint gets it."""
    peers.answers["POST /webhooks/wh_1/test"] = (202, {"success": True, "deliveryId": "evt_1"})
    reply = await api.post(f"{PATH}/wh_1/test")
    assert (reply.status, reply.body["deliveryId"]) == (202, "evt_1")


async def test_a_time_range_is_replayed(api: Api, peers: Peers) -> None:
    """The logger gets both times in UTC; without `to` it decides what is now."""
    peers.answers["POST /webhooks/wh_1/replay"] = (202, {"success": True, "replayId": "7", "events": 12})
    reply = await api.post(f"{PATH}/wh_1/replay", {"from": "2026-01-31T12:00:00+07:00"})
    assert (reply.status, reply.body["replayId"], reply.body["events"]) == (202, "7", 12)
    assert asked(peers)[-1][2] == {"from": "2026-01-31T05:00:00.000Z"}
    await api.post(f"{PATH}/wh_1/replay", {"from": "2026-01-31T05:00:00Z", "to": "2026-01-31T05:00:01Z"})
    assert asked(peers)[-1][2] == {"from": "2026-01-31T05:00:00.000Z", "to": "2026-01-31T05:00:01.000Z"}


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({}, "from", ("REQUIRED", "from is required")),
        ({"from": "2999-01-01T00:00:00Z"}, "from", ("INVALID_VALUE", "from is in the future")),
        ({"from": "2026-01-31T05:00:00Z", "to": "2026-01-31T05:00:00Z"}, "to", ("INVALID_VALUE", "must be after from")),
        ({"from": "2026-01-31T05:00:01Z", "to": "2026-01-31T05:00:00Z"}, "to", ("INVALID_VALUE", "must be after from")),
        ({"from": "yesterday"}, "from", ("INVALID_VALUE", "")),
        ({"from": "2026-01-31T05:00:00Z", "since": 1}, "since", ("UNKNOWN_FIELD", "")),
    ],
)
async def test_an_empty_or_unreadable_range_is_refused(
    body: Any, field: str, problem: tuple[str, str], api: Api, peers: Peers
) -> None:
    """Before the logger is asked; the words say which end is wrong."""
    reply = await api.post(f"{PATH}/wh_1/replay", body)
    assert (reply.status, reply.problem(field)) == (422, problem[0])
    assert problem[1] in reply.body["errors"][0]["message"]
    assert peers.asked == []


async def test_deliveries_are_listed(api: Api, peers: Peers) -> None:
    """A page of them, with the filters that were given."""
    answer = {"success": True, "deliveries": [DELIVERY], "nextCursor": "c"}
    peers.answers["GET /webhooks/wh_1/deliveries"] = (200, answer)
    reply = await api.get(
        f"{PATH}/wh_1/deliveries?status=retrying&from=2026-01-31T12:00:00%2B07:00&limit=5&cursor=a%26b"
    )
    assert (reply.status, reply.body) == (200, answer)
    assert asked(peers)[-1][1] == "status=retrying&from=2026-01-31T12:00:00%2B07:00&limit=5&cursor=a%26b"
    assert (await api.get(f"{PATH}/wh_1/deliveries?state=x")).body["code"] == "INVALID_QUERY"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "WEBHOOK_NOT_FOUND"),
        (409, "WEBHOOK_DISABLED"),
        (409, "TOO_MANY_WEBHOOKS"),
        (400, "INVALID_CURSOR"),
        (400, "INVALID_QUERY"),
    ],
)
async def test_a_refusal_of_the_logger_is_the_answer(status: int, code: str, api: Api, peers: Peers) -> None:
    """With its code and its words."""
    peers.answers["POST /webhooks/wh_1/test"] = (
        status,
        {"success": False, "code": code, "message": "why", "errors": []},
    )
    reply = await api.post(f"{PATH}/wh_1/test")
    assert (reply.status, reply.body["code"], reply.body["message"]) == (status, code, "why")


async def test_a_logger_of_an_earlier_version_is_named(api: Api) -> None:
    """It does not have these calls: the answer says what to do, and the call may be repeated."""
    for path in (PATH, f"{PATH}/wh_1", f"{PATH}/wh_1/deliveries"):
        reply = await api.get(path)
        assert (reply.status, reply.body["code"]) == (503, "LOGGER_UNAVAILABLE")
        assert "upgrade it" in reply.body["message"]
        assert reply.headers["Retry-After"]


@pytest.mark.parametrize("webhook_id", ["nothing", "..%2f..%2finternal%2fbackup", "a%20b", "x" * 65, "%2e%2e"])
async def test_an_unknown_id_is_not_found(webhook_id: str, api: Api, peers: Peers) -> None:
    """No id leads to another path of the logger."""
    peers.answers["POST /internal/backup"] = (200, {"success": True})
    peers.answers["GET /webhooks/nothing"] = (404, {"code": "WEBHOOK_NOT_FOUND", "message": ""})
    reply = await api.get(f"{PATH}/{webhook_id}")
    assert (reply.status, reply.body["code"]) in {(404, "WEBHOOK_NOT_FOUND"), (404, "NOT_FOUND")}
    assert [call for call, _, _ in asked(peers)] in ([], ["GET /webhooks/nothing"])


async def test_scopes(start_ingest: StartIngest) -> None:
    """A key that reads may see webhooks and deliveries; only one with `admin` may change anything, or send."""
    ingest = start_ingest("scoped")
    ingest.peers.answers["GET /webhooks"] = (200, {"success": True, "webhooks": []})
    ingest.peers.answers["GET /webhooks/wh_1"] = (200, {"success": True, "webhook": VIEW})
    ingest.peers.answers["GET /webhooks/wh_1/deliveries"] = (200, {"success": True, "deliveries": []})
    reads = ["", "/wh_1", "/wh_1/deliveries"]
    calls = [
        ("POST", "", wanted()), ("PATCH", "/wh_1", {}), ("DELETE", "/wh_1", None), ("POST", "/wh_1/rotate", {}),
        ("POST", "/wh_1/test", None), ("POST", "/wh_1/replay", {"from": "2026-01-31T05:00:00Z"}),
    ]  # fmt: skip
    async with AsyncExitStack() as stack:
        api = await open_api(stack, ingest.url)
        for path in reads:
            assert (await api.get(PATH + path, headers={"Authorization": f"Bearer {READ_KEY}"})).status == 200
            assert (await api.get(PATH + path)).status == 401
        for key in (READ_KEY, SEND_KEY):
            headers = {"Authorization": f"Bearer {key}"}
            for method, path, body in calls:
                reply = await api.call(method, PATH + path, json=body, headers=headers)
                assert (reply.status, reply.body["code"]) == (403, "MISSING_SCOPE"), (method, path)
    assert {call for call, _, _ in asked(ingest.peers)} == {f"GET /webhooks{path}" for path in reads}


async def test_the_log_of_requests_keeps_no_secret(api: Api, peers: Peers, redis: Redis) -> None:
    """Neither the secret nor the path and query of the URL, which may be one."""
    peers.answers["POST /webhooks"] = (201, {"success": True, "webhook": VIEW, "secret": SECRET})
    await add(api, secret=SECRET, description="orders")
    await add(api, url="https://user:hush@shop.example.com/hush", secret="hush")
    await api.post(f"{PATH}/wh_1/rotate", {"secret": SECRET})
    await add(api, description="the last of them")
    # requests are logged in their order, and those of earlier tests may still arrive
    rows = await wait_for(lambda: logged_until(redis, "the last of them"))
    text = " ".join(f"{row.body} {row.error} {row.endpoint}" for row in rows)
    assert "orders" in text
    assert "https://shop.example.com/***" in text
    assert "hush" not in text
    assert SECRET not in text


async def logged_until(redis: Redis, last: str) -> list[ApiRequest]:
    """Return the logged requests once one with this text in its body is among them, none before."""
    client: Any = redis
    rows = await client.xrange("gateway:events")
    events = [event for _, fields in rows for event in unpack_batch(fields[b"d"]).events]
    requests = [event for event in events if isinstance(event, ApiRequest) and event.method == "POST"]
    return requests if any(last in str(one.body) for one in requests) else []


async def test_webhooks_are_changed_while_redis_is_away(start_ingest: StartIngest) -> None:
    """The logger has them; Redis follows."""
    ingest = start_ingest("webhooks away")
    ingest.peers.answers["GET /webhooks"] = (200, {"success": True, "webhooks": []})
    async with AsyncExitStack() as stack:
        assert (await (await open_api(stack, ingest.url)).get(PATH)).status == 200
