"""Accepting blasts: every form of body follows the same rules, and the answer matches the queued jobs."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from shared.jobs import Job, unpack_job
from shared.queue.blasts import BlastStore
from shared.sealing import Seal
from tests.integration.ingest.running import Api, Reply, person
from tests.servers import INTERNAL_SECRET

BLAST = "/api/messages/blast"
_PHONE_RULE = "Write the phone number as a string, in quotes: a JSON number cannot begin with 0 or +"


async def queued(redis: Redis, channel: str = "email") -> list[Job]:
    """Return every waiting job of a channel, unsealed as by its sender, in stream order."""
    client: Any = redis
    jobs = []
    for key in sorted(await client.keys(f"{{{channel}}}:jobs:*")):
        jobs += [unpack_job(fields[b"d"]) for _, fields in await client.xrange(key)]
    kept = await client.hvals(f"{{{channel}}}:later:jobs")
    jobs += [unpack_job(raw[2:]) for raw in kept]
    return [Seal(INTERNAL_SECRET).opened_job(job) for job in jobs]


async def post_as(api: Api, form: str, recipients: list[dict[str, Any]], **head: Any) -> Reply:
    """POST the same blast in one of the forms of a body."""
    head = {"templateId": "otp", "channels": ["email"], **head}
    if form == "json":
        return await api.post(BLAST, {**head, "recipients": recipients})
    if form == "ndjson":
        lines = "\n".join(map(json.dumps, [head, *recipients]))
        return await api.post(BLAST, data=lines.encode(), headers={"Content-Type": "application/x-ndjson"})
    table = _csv(recipients)
    if form == "csv":
        query = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in head.items()}
        return await api.post(BLAST, data=table.encode(), headers={"Content-Type": "text/csv"}, params=query)
    parts = aiohttp.FormData()
    parts.add_field("blast", json.dumps(head))
    parts.add_field("recipients", table.encode(), filename="people.csv", content_type="text/csv")
    return await api.post(BLAST, data=parts)


def _csv(recipients: list[dict[str, Any]]) -> str:
    rows = [";".join([one["name"], one["email"], one["variables"].get("code", "")]) for one in recipients]
    return "\ufeff" + "\r\n".join(["Name;Email;code", *rows])


FORMS = pytest.mark.parametrize("form", ["json", "ndjson", "csv", "multipart"])


@FORMS
async def test_every_form_queues_the_same_jobs(form: str, api: Api, redis: Redis) -> None:
    """Each recipient gets one job with its address, name and variables, in the order of the request."""
    reply = await post_as(api, form, [person(number) for number in range(3)])
    assert reply.status == 202, reply.text
    assert reply.body["totalMessages"] == reply.body["totalRecipients"] == 3
    assert reply.headers["Location"] == f"/api/v1/blasts/{reply.body['blastId']}"
    jobs = await queued(redis)
    assert [(job.index, job.recipient.address, job.recipient.name) for job in jobs] == [
        (number, f"person{number}@example.com", f"Person {number}") for number in range(3)
    ]
    assert [str(job.recipient.variables["code"]) for job in jobs] == ["1000", "1001", "1002"]
    assert {job.blast_id for job in jobs} == {reply.body["blastId"]}
    if form == "json":
        assert reply.body["jobIds"] == [job.job_id for job in jobs]


@FORMS
async def test_strict_queues_nothing_and_names_every_problem(form: str, api: Api, redis: Redis) -> None:
    """One invalid recipient is enough to queue nothing; each problem has its path in the request."""
    bad = [person(0), person(1, email="nobody"), person(2, variables={})]
    reply = await post_as(api, form, bad)
    assert reply.status == 422
    assert reply.problem("recipients[1].email") == "INVALID_EMAIL"
    assert reply.problem("recipients[2].variables.code") == "MISSING_REQUIRED_VARIABLE"
    assert await queued(redis) == []


@FORMS
async def test_permissive_queues_the_good_and_names_the_rest(form: str, api: Api, redis: Redis) -> None:
    """Accepted recipients keep their own index; the others are listed and counted."""
    reply = await post_as(api, form, [person(0, email="nobody"), person(1)], validation="permissive")
    assert reply.status == 202
    assert reply.body["totalMessages"] == reply.body["rejectedRecipients"] == 1
    assert reply.problem("recipients[0].email") == "INVALID_EMAIL"
    assert [job.index for job in await queued(redis)] == [1]


@FORMS
async def test_a_dry_run_checks_and_queues_nothing(form: str, api: Api, redis: Redis) -> None:
    """The answer is 200 with the totals, and Redis has no blast."""
    reply = await post_as(api, form, [person(0)], dryRun="true" if form == "csv" else True)
    assert (reply.status, reply.body["totalMessages"], reply.body["dryRun"]) == (200, 1, True)
    assert "blastId" not in reply.body
    assert await queued(redis) == []
    assert await redis.keys("blast:*") == []


async def test_only_the_first_hundred_problems_are_listed(api: Api) -> None:
    """The message counts up to one hundred, and says if there are more."""
    reply = await api.blast(*(person(number, variables={}) for number in range(150)))
    assert len(reply.body["errors"]) == 100
    assert reply.body["message"].startswith(
        "more than 100 problems; the first: the template requires the variable 'code'"
    )
    reply = await api.blast(*(person(number, variables={}) for number in range(100)))
    assert reply.body["message"].startswith("100 problems; ")


async def test_permissive_drops_a_channel_without_address(api: Api, redis: Redis) -> None:
    """A recipient without a phone still gets the mail; a channel without recipients has no total."""
    reply = await api.blast(person(0, phone=None), channels=["email", "whatsapp"], validation="permissive")
    assert (reply.status, reply.body["totalMessages"]) == (202, 1)
    assert reply.problem("recipients[0].phone") == "MISSING_PHONE"
    assert len(await queued(redis)) == 1
    state = (await api.get(f"/api/blasts/{reply.body['blastId']}")).body["blast"]
    assert list(state["channels"]) == ["email"]


async def test_repeated_addresses_are_collapsed(api: Api, redis: Redis) -> None:
    """The first of equal addresses stays, separately for each channel; another spelling is still a duplicate."""
    people = [person(0), person(1, email="person0@EXAMPLE.com"), person(2, phone=person(0)["phone"])]
    reply = await api.blast(*people, channels=["email", "whatsapp"])
    assert (reply.body["totalMessages"], reply.body["duplicates"], reply.body["totalRecipients"]) == (4, 2, 3)
    assert [job.index for job in await queued(redis)] == [0, 2]
    assert [job.index for job in await queued(redis, "whatsapp")] == [0, 1]
    assert len(reply.body["jobIds"]) == 4


async def test_spellings_of_one_address_are_collapsed(api: Api, redis: Redis) -> None:
    """Case, forms of a domain and retired WhatsApp numbers are duplicates; the first spelling gets the message."""
    emails = ["Siti@Example.com", "siti@example.com", "SITI@EXAMPLE.COM", "a@münchen.de", "A@xn--mnchen-3ya.de"]
    reply = await api.blast(*[person(n, email=one) for n, one in enumerate(emails)])
    assert (reply.body["totalMessages"], reply.body["duplicates"]) == (2, 3)
    assert [job.recipient.address for job in await queued(redis)] == ["Siti@example.com", "a@münchen.de"]
    refused = await api.blast(person(0, email=emails[0]), person(1, email=emails[1]), onDuplicate="error")
    assert refused.problem("recipients[1].email") == "DUPLICATE_RECIPIENT"


async def test_a_phone_is_one_number_or_refused(api: Api, redis: Redis) -> None:
    """Text added to a number is reported; for a JSON number, the message says how to write it."""
    phones = ["6281224770000.0", "0812 2477 100/1", "0812 2477 2000 (2)", 6281224772000, 6281224770000.0]
    reply = await api.blast(*[person(n, phone=one) for n, one in enumerate(phones)], channels=["whatsapp"])
    assert [(one["field"], one["code"], one["message"].partition(".")[0]) for one in reply.body["errors"]] == [
        ("recipients[0].phone", "INVALID_PHONE", "This looks like a spreadsheet's decimal number"),
        ("recipients[1].phone", "INVALID_PHONE", "This looks like two numbers"),
        ("recipients[2].phone", "INVALID_PHONE", "This has a note in brackets"),
        ("recipients[3].phone", "INVALID_TYPE", _PHONE_RULE),
        ("recipients[4].phone", "INVALID_TYPE", _PHONE_RULE),
    ]
    assert await queued(redis, "whatsapp") == []


async def test_a_number_goes_out_as_whatsapp_writes_it(api: Api, redis: Redis) -> None:
    """Mexican and Brazilian accounts keep their spelling; another spelling of the same account is a duplicate."""
    phones = ["5215512345678", "558187654321", "+55 81 98765-4321"]
    reply = await api.blast(*[person(n, phone=one) for n, one in enumerate(phones)], channels=["whatsapp"])
    assert (reply.status, reply.body["duplicates"]) == (202, 1)
    assert [job.recipient.address for job in await queued(redis, "whatsapp")] == phones[:2]


async def test_priority_and_size_choose_the_lane(api: Api, redis: Redis) -> None:
    """Priority 0 has the high lane, no priority the normal one, and 2 its own stream."""
    for priority in (0, None, 2):
        head = {} if priority is None else {"priority": priority}
        assert (await api.blast(person(priority or 9), **head)).status == 202
    assert [job.lane for job in await queued(redis)] == ["bulk", "high", "normal"]


async def test_more_than_a_thousand_recipients_go_to_bulk(api: Api, redis: Redis) -> None:
    """A large blast does not hold up a small one."""
    reply = await post_as(api, "ndjson", [person(number) for number in range(1001)])
    assert reply.status == 202
    assert {job.lane for job in await queued(redis)} == {"bulk"}


async def test_a_scheduled_blast_waits(api: Api, redis: Redis) -> None:
    """Its jobs are counted as scheduled, and the blast shows its start and its expiry."""
    at = datetime.now(UTC) + timedelta(hours=1)
    reply = await api.blast(person(), scheduledAt=at.isoformat(), expiresAt=(at + timedelta(hours=1)).isoformat())
    state = (await api.get(f"/api/blasts/{reply.body['blastId']}")).body["blast"]
    assert (state["state"], state["waitingFor"], state["counts"]["scheduled"]) == ("scheduled", "scheduled", 1)
    assert datetime.fromisoformat(state["scheduledAt"]) - at < timedelta(seconds=1)
    assert (await queued(redis))[0].expires_at_ms > at.timestamp() * 1000


def nested(levels: int) -> Any:
    """Return objects within each other."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


async def test_metadata_may_have_32_levels(api: Api, redis: Redis) -> None:
    """It is stored as it came."""
    reply = await api.blast(person(), metadata=nested(32))
    blast = await BlastStore(redis, "test").load(reply.body["blastId"])
    assert blast is not None
    assert blast.metadata == nested(32)


async def test_the_snapshot_contains_the_whole_blast(api: Api, redis: Redis) -> None:
    """Sender, reply address, attachments, reference and metadata are stored completely and do not change."""
    note = {"filename": "note.txt", "contentType": "text/plain", "content": base64.b64encode(b"hello").decode()}
    head = {
        "from": '"Acme, Sales" <sales@example.com>', "replyTo": "help@elsewhere.org", "attachments": [note],
        "reference": "order 7", "metadata": {"campaign": "spring", "tries": 2},
    }  # fmt: skip
    reply = await api.blast(person(attachments=[note]), **head)
    assert reply.status == 202, reply.text
    blast = await BlastStore(redis, "test").load(reply.body["blastId"])
    assert blast is not None
    assert (blast.from_address, blast.reply_to) == ('"Acme, Sales" <sales@example.com>', "help@elsewhere.org")
    assert [one.content for one in blast.attachments] == [b"hello"]
    assert (blast.reference, blast.metadata) == ("order 7", {"campaign": "spring", "tries": 2})
    assert (await queued(redis))[0].recipient.files[0].filename == "note.txt"


@pytest.mark.parametrize(
    ("head", "field", "code"),
    [
        ({"from": "ceo@elsewhere.org"}, "from", "INVALID_VALUE"),
        ({"from": "Eve\r\nBcc: x@example.com <a@example.com>"}, "from", "INVALID_CHARACTERS"),
        ({"from": "no address"}, "from", "INVALID_EMAIL"),
        ({"replyTo": "a@example.com\nBcc: b@example.com"}, "replyTo", "INVALID_EMAIL"),
        ({"reference": "a\r\nb"}, "reference", "INVALID_CHARACTERS"),
        ({"metadata": {"n": 2**70}}, "metadata", "INVALID_VALUE"),
        ({"metadata": nested(33)}, "metadata", "INVALID_VALUE"),
        ({"metadata": {"n": [nested(900)]}}, "metadata", "INVALID_VALUE"),
        ({"metadata": {"n": "x" * 20_000}}, "metadata", "TOO_LONG"),
        ({"channels": ["email", "email"]}, "channels[1]", "INVALID_VALUE"),
        ({"globalVariables": {"minutes": "soon"}}, "globalVariables.minutes", "INVALID_VARIABLE"),
    ],
)
async def test_a_bad_head_is_refused_with_its_place(head: dict[str, Any], field: str, code: str, api: Api) -> None:
    """No field of a head can break out of a header, fake its sender or be lost."""
    reply = await api.blast(person(), **head)
    assert reply.status == 422
    assert reply.problem(field) == code


async def test_every_problem_of_a_head_is_reported_at_once(api: Api) -> None:
    """Every problem is reported even if several fields have the wrong type."""
    reply = await api.blast(person(), channels=[], priority=9, scheduledAt="tomorrow", validaton="strict")
    assert {one["field"] for one in reply.body["errors"]} == {"channels", "priority", "scheduledAt", "validaton"}


@pytest.mark.parametrize("head", ["[None]", "[]", "5", '{"channels": [}', "\ud83d", '{"a":' * 2000])
async def test_a_head_that_is_not_json_is_malformed(head: str, api: Api) -> None:
    """The body is malformed even if a field with the wrong type precedes the broken JSON."""
    raw = f"{head}\n{{}}\n".encode("utf-8", "surrogatepass")
    reply = await api.post(BLAST, data=raw, headers={"Content-Type": "application/x-ndjson"})
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED_NDJSON")


async def test_one_message_is_a_blast_of_one(api: Api, redis: Redis) -> None:
    """The answer has its job id; problems refer to the fields of a single message."""
    body = {"templateId": "otp", "channel": "whatsapp", "recipient": person(3), "reference": "r"}
    reply = await api.post("/api/messages", body, headers={"Idempotency-Key": "one"})
    assert (reply.status, reply.body["jobId"]) == (202, f"{reply.body['blastId']}:0:whatsapp")
    again = await api.post("/api/messages", body, headers={"Idempotency-Key": "one"})
    assert (again.body, again.headers["Idempotency-Replayed"]) == (reply.body, "true")
    assert len(await queued(redis, "whatsapp")) == 1
    wrong = await api.post("/api/messages", {**body, "channel": "pigeon", "recipient": {}})
    assert wrong.problem("channel") == "UNKNOWN_CHANNEL"
    missing = await api.post("/api/messages", {**body, "recipient": {}})
    assert missing.problem("recipient.phone") == "MISSING_PHONE"


async def test_a_preview_renders_and_queues_nothing(api: Api, redis: Redis) -> None:
    """The html is escaped, the text is derived from it, and WhatsApp shows its components."""
    body = {"templateId": "invoice_reminder", "channel": "email"}
    values = {"order_number": "<7>", "amount": "1250000", "due_date": "2026-02-01"}
    recipient = person(name="Ann & Bo", variables=values)
    mail = (await api.post("/api/messages/preview", {**body, "recipient": recipient})).body["preview"]
    assert mail["subject"] == "Invoice <7> is due on 01 February 2026"
    assert "Ann &amp; Bo" in mail["html"]
    assert "&lt;7&gt;" in mail["html"]
    assert "Rp 1.250.000" in mail["text"]
    chat = await api.post("/api/messages/preview", {**body, "channel": "whatsapp", "recipient": recipient})
    parameters = chat.body["preview"]["components"][0]["parameters"]
    assert [one["text"] for one in parameters] == ["Ann & Bo", "<7>", "Rp 1.250.000", "01 February 2026"]
    assert await queued(redis) == []
