"""Numbers through the API: in every form of body, printed as given or refused with a hint, on both channels alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from services.whatsapp_sender.payload import Payload
from services.whatsapp_sender.qiscus import Qiscus
from shared.blasts import Blast
from shared.queue.blasts import BlastStore
from shared.rendering import compile_template, job_values
from tests.integration.ingest.running import Api, Reply, person
from tests.integration.ingest.test_blasts import BLAST, post_as, queued

TEMPLATE: dict[str, Any] = {
    "id": "bill",
    "name": "Bill",
    "channels": ["email", "whatsapp"],
    "language": "id",
    "subject": "{{ amount }}",
    "html": "{{ amount }}|{{ amount | number(2) }}|{{ amount | currency('IDR') }}|{{ due | date('%d %B %Y') }}",
    "variables": [
        {"name": "amount", "type": "number", "example": 12.50},
        {"name": "due", "type": "date", "default": "2026-05-01", "required": False},
    ],
    "whatsapp": {
        "templateName": "bill",
        "language": "id",
        "headerVariables": ["document:{{ 'https://example.com/inv/INV%20' ~ amount ~ '.pdf?sig=1' }}"],
        "bodyVariables": [
            "amount",
            "amount | number(2)",
            "{{ amount | currency('IDR') }}",
            "{{ due | date('%d %B %Y') }}",
        ],
        "buttonVariables": [
            "amount",
            {"value": "STOP {{ name }}", "type": "quick_reply", "index": 3},
            {"value": "name | upper", "type": "copy_code", "index": 2},
        ],
    },
}
LITERALS = ["1915000.00", "12.50", "1e16", "12345678901234567890123", "-7", "0.10"]
# a string in exponent form is a number that a spreadsheet has shortened
FORMS = [("json", one) for one in LITERALS] + [("ndjson", one) for one in LITERALS]
FORMS += [("csv", one) for one in LITERALS if "e" not in one] + [("csv", "007"), ("csv", "1.915.000,50")]


async def sent(api: Api, amount: str, form: str) -> Reply:
    await api.post("/api/templates", TEMPLATE)
    head = {"templateId": "bill", "channels": ["email", "whatsapp"]}
    person = '{"name": "Siti", "email": "s@example.com", "phone": "081224770000", "variables": {"amount": %s}}'
    if form == "json":
        data = json.dumps({**head, "recipients": []}).replace("[]", f"[{person % amount}]").encode()
        return await api.post(BLAST, data=data, headers={"Content-Type": "application/json"})
    if form == "ndjson":
        lines = json.dumps(head) + "\n" + person % amount
        return await api.post(BLAST, data=lines.encode(), headers={"Content-Type": "application/x-ndjson"})
    table = f'name;email;phone;amount\nSiti;s@example.com;081224770000;"{amount}"\n'
    query = {"templateId": "bill", "channels": "email,whatsapp"}
    return await api.post(BLAST, data=table.encode(), headers={"Content-Type": "text/csv"}, params=query)


async def printed(redis: Redis, blast_id: str) -> tuple[list[str], dict[str, Any]]:
    """Return the mail's text and the WhatsApp message, rendered from the queue as their senders render them."""
    blast = await BlastStore(redis, "test").load(blast_id)
    assert isinstance(blast, Blast)
    (mail,), (chat,) = await queued(redis, "email"), await queued(redis, "whatsapp")
    message = compile_template(blast.template).render(job_values(blast, mail))
    assert message.subject == message.html.split("|")[0]
    payload = Payload(blast, Qiscus("", "app", "1", "secret"))
    return message.html.split("|"), json.loads(payload.fill(chat).body)["template"]


@pytest.mark.parametrize(("form", "literal"), FORMS)
async def test_a_number_is_printed_as_given_in_both_channels(form: str, literal: str, api: Api, redis: Redis) -> None:
    """The digits stay the same from the bytes of the request to the message."""
    reply = await sent(api, literal, form)
    assert reply.status == 202, reply.text
    mail, chat = await printed(redis, reply.body["blastId"])
    body = next(one for one in chat["components"] if one["type"] == "body")
    assert mail[0] == literal
    assert [one["text"] for one in body["parameters"]] == mail
    assert mail[3] == "01 Mei 2026"


async def test_a_whatsapp_message_has_what_metas_format_asks_for(api: Api, redis: Redis) -> None:
    """A document has its file's name; each button has its index, its type and that type's parameter."""
    reply = await sent(api, "5", "json")
    _, chat = await printed(redis, reply.body["blastId"])
    header, _, *buttons = chat["components"]
    assert header["parameters"] == [
        {"type": "document",
         "document": {"link": "https://example.com/inv/INV%205.pdf?sig=1", "filename": "INV 5.pdf"}}
    ]  # fmt: skip
    assert buttons == [
        {"type": "button", "sub_type": "url", "index": "0", "parameters": [{"type": "text", "text": "5"}]},
        {"type": "button", "sub_type": "quick_reply", "index": "3",
         "parameters": [{"type": "payload", "payload": "STOP Siti"}]},
        {"type": "button", "sub_type": "copy_code", "index": "2",
         "parameters": [{"type": "coupon_code", "coupon_code": "SITI"}]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ('"1.915"', "could be 1915 or 1.915: write '1915' or '1.9150'"),
        ('"1,915"', "could be 1915 or 1.915"),
        ('"1.9E+06"', "spreadsheet has shortened"),
        ('"NaN"', "'NaN' is not a number"),
        ("1e40", "at most 30 digits"),
        ("true", "should be a number"),
    ],
)
async def test_an_ambiguous_number_is_refused_with_a_hint(amount: str, words: str, api: Api, redis: Redis) -> None:
    """The recipient gets 422, and nothing is queued."""
    reply = await sent(api, amount, "json")
    assert reply.status == 422
    assert reply.problem("recipients[0].variables.amount") == "INVALID_VARIABLE"
    assert words in reply.body["errors"][0]["message"]
    assert await queued(redis) == []


async def test_a_template_keeps_the_numbers_that_it_was_given(api: Api) -> None:
    """Its examples and defaults come back as they were written."""
    raw = json.dumps(TEMPLATE).replace('"example": 12.5', '"example": 12.50, "default": 1915000.00').encode()
    reply = await api.post("/api/templates", data=raw, headers={"Content-Type": "application/json"})
    assert reply.status == 201, reply.text
    assert '"default":1915000.00,"example":12.50' in reply.text
    assert '"default":1915000.00,"example":12.50' in (await api.get("/api/templates/bill")).text


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"bodyVariables": ["amont | number"]}, "whatsapp.bodyVariables[0]", "did you mean 'amount'?"),
        ({"bodyVariables": ["{{ amount | nmber }}"]}, "whatsapp.bodyVariables[0]", "did you mean 'number'?"),
        ({"bodyVariables": ["{{ amount"]}, "whatsapp.bodyVariables[0]", "never closed"),
        ({"headerVariables": ["audio:amount"]}, "whatsapp.headerVariables[0]", "a header must be"),
        ({"buttonVariables": ["due", {"value": "name", "index": 0}]}, "whatsapp.buttonVariables[1].index", "index 0"),
        ({"buttonVariables": [{"value": "name", "type": "phone"}]}, "whatsapp", "type"),
    ],
)
async def test_a_parameter_that_cannot_be_filled_is_refused_with_its_template(
    change: dict[str, Any], field: str, words: str, api: Api
) -> None:
    """The problem has its path and the nearest name."""
    reply = await api.post("/api/templates", {**TEMPLATE, "whatsapp": {**TEMPLATE["whatsapp"], **change}})
    assert reply.status == 422
    problem = reply.body["errors"][0]
    assert problem["field"].startswith(field)
    assert words in problem["message"] + problem["field"]


@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
async def test_an_ambiguous_text_of_a_late_recipient_is_refused_at_intake(form: str, api: Api, redis: Redis) -> None:
    """The mail shows a string variable as a number: without the check, the fifth message would fail in its sender."""
    await api.post(
        "/api/templates",
        {
            "id": "bill", "name": "Bill", "channels": ["email"], "subject": "Bill", "text": "{{ amount | currency }}",
            "variables": [{"name": "amount", "example": "1915"}],
        },
    )  # fmt: skip
    amounts = ["1915", "1.915.000", "12,50", "0.915", "1.915", "1,915"]
    people = [person(place, variables={"amount": amount}) for place, amount in enumerate(amounts)]
    if form == "csv":
        rows = [f'{one["name"]},{one["email"]},"{one["variables"]["amount"]}"' for one in people]
        reply = await api.post(
            f"{BLAST}?templateId=bill&channels=email", data="\n".join(["name,email,amount", *rows]).encode(),
            headers={"Content-Type": "text/csv"},
        )  # fmt: skip
    else:
        reply = await post_as(api, form, people, templateId="bill")
    assert reply.status == 422, reply.text
    fields = [f"recipients[{place}].variables.amount" for place in (4, 5)]
    assert [one["field"] for one in reply.body["errors"]] == fields
    assert all("could be two different numbers" in one["message"] for one in reply.body["errors"])
    assert await queued(redis) == []
