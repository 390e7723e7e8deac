"""Names: columns match variables in any spelling, unused names give warnings, printed names are required."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.ingest.running import Api, Reply, person
from tests.integration.ingest.test_blasts import BLAST, FORMS, post_as, queued

PREVIEW = "/api/messages/preview"


async def csv(api: Api, table: str, **query: str) -> Reply:
    query = {"templateId": "otp", "channels": "email", **query}
    return await api.post(BLAST, data=table.encode(), headers={"Content-Type": "text/csv"}, params=query)


def warned(reply: Reply) -> list[tuple[str, str]]:
    assert {one["code"] for one in reply.body["warnings"]} == {"UNKNOWN_VARIABLE"}
    return [(one["field"], one["message"]) for one in reply.body["warnings"]]


@pytest.mark.parametrize("column", ["Minutes", "MINUTES", " minutes ", "minutes"])
async def test_a_column_matches_its_variable_in_any_case(column: str, api: Api, redis: Redis) -> None:
    """The mail says 30 minutes, and there is no warning."""
    reply = await csv(api, f"name,email,code,{column}\nSiti,min2@example.com,1,30\n")
    assert reply.status == 202, reply.text
    assert "warnings" not in reply.body
    assert [job.recipient.variables for job in await queued(redis)] == [{"code": "1", "minutes": 30}]


@pytest.mark.parametrize("column", ["Order Number", "order-number", "ORDER_NUMBER", "OrderNumber"])
async def test_spaces_and_signs_of_a_column_do_not_count(column: str, api: Api, redis: Redis) -> None:
    """`Order Number` matches `order_number`."""
    table = f"name;email;{column};Amount;due date\nSiti;s@example.com;INV-1;12,50;2026-02-01\n"
    reply = await csv(api, table, templateId="invoice_reminder")
    assert reply.status == 202, reply.text
    assert (await queued(redis))[0].recipient.variables["order_number"] == "INV-1"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("name,email,code,Minutes,minutes", "the columns 'Minutes', 'minutes' both match the variable 'minutes'"),
        ("name,email,Code,code", "the columns 'Code', 'code' both match the variable 'code'"),
        ("name,email,code,min utes,MINUTES", "both match the variable 'minutes'"),
    ],
)
async def test_two_columns_for_one_variable_are_one_error_for_the_file(header: str, words: str, api: Api) -> None:
    """The rows do not repeat the error, and neither column wins."""
    rows = "\n".join(",".join(["Siti", f"s{n}@example.com", "1", "2", "3"][: header.count(",") + 1]) for n in range(5))
    reply = await csv(api, f"{header}\n{rows}\n")
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED_CSV")
    assert words in reply.body["message"]


@FORMS
@pytest.mark.parametrize("dry", [False, True], ids=["sent", "dry"])
async def test_a_variable_that_the_template_does_not_use_is_reported_once(form: str, dry: bool, api: Api) -> None:
    """The warning has the nearest name and is given once for all recipients; the blast is accepted."""
    people = [person(number, variables={"code": "1", "minuts": "3"}) for number in range(50)]
    if form in {"csv", "multipart"}:
        table = "name,email,code,minuts\n" + "".join(f"P,p{number}@example.com,1,3\n" for number in range(50))
        reply = await csv(api, table, **({"dryRun": "true"} if dry else {}))
    else:
        reply = await post_as(api, form, people, **({"dryRun": True} if dry else {}))
    assert reply.status == (200 if dry else 202), reply.text
    ((field, message),) = warned(reply)
    assert field == "recipients[0].variables.minuts"
    assert "did you mean 'minutes'?" in message


async def test_unknown_global_variables_are_reported_too(api: Api) -> None:
    """Warnings are given in JSON and for a query."""
    reply = await api.blast(person(), globalVariables={"Minutes": 3, "brand": "X"})
    assert [field for field, _ in warned(reply)] == ["globalVariables.Minutes", "globalVariables.brand"]
    assert "did you mean 'minutes'?" in warned(reply)[0][1]
    reply = await csv(api, "name,email,code\nSiti,s@example.com,1\n", **{"globalVariables.minuts": "3"})
    assert [field for field, _ in warned(reply)] == ["globalVariables.minuts"]


async def test_a_single_message_and_a_preview_report_it_as_well(api: Api) -> None:
    """The path is that of their request."""
    body = {"templateId": "otp", "channel": "email", "recipient": person(variables={"code": "1", "minuts": "3"})}
    for path, status in (("/api/messages", 202), (PREVIEW, 200)):
        reply = await api.post(path, {**body, "globalVariables": {"zzz": 1}})
        assert reply.status == status, reply.text
        assert [field for field, _ in warned(reply)] == ["globalVariables.zzz", "recipient.variables.minuts"]


async def test_a_repeated_request_has_the_same_warnings(api: Api) -> None:
    """The stored answer contains them."""
    replies = [await api.blast(person(variables={"code": "1", "x": 1}), key="again") for _ in range(2)]
    assert replies[0].body == replies[1].body
    assert warned(replies[1])[0][0] == "recipients[0].variables.x"


async def test_there_are_at_most_a_hundred_warnings(api: Api) -> None:
    """A million recipients with different unknown names must not fill memory or the answer."""
    people = [person(number, variables={"code": "1", f"x{number}": 1}) for number in range(150)]
    assert len(warned(await api.blast(*people))) == 100


async def test_built_in_fields_are_not_unknown_variables(api: Api) -> None:
    """`name`, `email` and `phone` are allowed among the variables, and so is an empty column of the recipient's own."""
    reply = await api.blast(person(variables={"code": "1", "name": "A", "phone": "081224770000"}))
    assert "warnings" not in reply.body
    assert "warnings" not in (await csv(api, "Name,E-mail,reference,code\nSiti,s@example.com,r,1\n")).body


async def test_a_template_gets_warnings_for_unused_declarations(api: Api) -> None:
    """Writing it gives a warning; an undeclared name that it uses is reported with the nearest declared one."""
    template = {"name": "T", "channels": ["email"], "subject": "{{ minutes }}", "text": "x"}
    declared = [{"name": "minutes"}, {"name": "minuts"}]
    reply = await api.call("PUT", "/api/templates/vain", json={**template, "variables": declared})
    assert warned(reply) == [
        ("variables[1].name", "no part of the template uses 'minuts'; did you mean 'minutes'?"),
    ]
    reply = await api.call("PUT", "/api/templates/vain", json={**template, "variables": declared[1:]})
    assert reply.status == 422
    assert "did you mean 'minuts'?" in reply.body["message"]


GREETING: dict[str, Any] = {
    "id": "greeting", "name": "Greeting", "channels": ["email", "whatsapp"],
    "subject": "Hello", "html": "Dear {{ name }}", "text": "Dear {{ name | default('customer') }}",
    "whatsapp": {"templateName": "greeting", "language": "en", "bodyVariables": ["name | default('customer')"]},
}  # fmt: skip


@FORMS
async def test_a_name_that_is_printed_unguarded_is_required(form: str, api: Api, redis: Redis) -> None:
    """Without it, the recipient has an error at `name`, and nothing is queued."""
    await api.post("/api/templates", GREETING)
    people = [person(0), person(1, name=" ")]
    reply = await post_as(api, form, [{**one, "variables": {}} for one in people], templateId="greeting")
    assert reply.status == 422, reply.text
    assert [(one["field"], one["code"]) for one in reply.body["errors"]] == [
        ("recipients[1].name", "MISSING_REQUIRED_VARIABLE")
    ]
    assert await queued(redis) == []


async def test_a_guarded_name_is_not_required(api: Api) -> None:
    """This holds for a channel whose content guards it; a global name or a variable also suffices."""
    await api.post("/api/templates", GREETING)
    nameless = person(name="", variables={})
    head = {"templateId": "greeting"}
    assert (await api.blast(nameless, **head, channels=["whatsapp"])).status == 202
    assert (await api.blast(nameless, **head, globalVariables={"name": "all"})).status == 202
    assert (await api.blast({**nameless, "variables": {"name": "N"}}, **head)).status == 202
    assert (await api.blast(nameless, **head)).status == 422
    assert (await api.blast(person(name=""))).status == 202  # otp asks `if name`


async def test_permissive_drops_the_channel_that_prints_the_name(api: Api, redis: Redis) -> None:
    """The other channel is still sent."""
    await api.post("/api/templates", GREETING)
    reply = await api.blast(
        person(name="", variables={}), templateId="greeting", channels=["email", "whatsapp"], validation="permissive"
    )
    assert reply.status == 202
    assert [one["field"] for one in reply.body["errors"]] == ["recipients[0].name"]
    assert (len(await queued(redis, "email")), len(await queued(redis, "whatsapp"))) == (0, 1)


async def test_a_preview_asks_for_the_name_too(api: Api) -> None:
    """The path is `recipient.name`; the template's requirements list it."""
    await api.post("/api/templates", GREETING)
    body = {"templateId": "greeting", "channel": "email", "recipient": person(name="", variables={})}
    reply = await api.post(PREVIEW, body)
    assert (reply.status, reply.problem("recipient.name")) == (422, "MISSING_REQUIRED_VARIABLE")
    asked = (await api.get("/api/templates/greeting/requirements")).body["requirements"]
    assert asked["requiredFields"] == ["name"]


async def test_a_file_without_a_column_of_names_is_one_error(api: Api) -> None:
    """The rows do not repeat the error."""
    await api.post("/api/templates", GREETING)
    reply = await csv(api, "email\na@example.com\nb@example.com\n", templateId="greeting")
    assert reply.status == 422
    assert [(one["field"], one["code"]) for one in reply.body["errors"]] == [
        ("recipients", "MISSING_REQUIRED_VARIABLE")
    ]


async def test_a_missing_variable_names_the_misspelt_one(api: Api) -> None:
    """The message of the missing one points to the misspelt one."""
    reply = await api.blast(person(variables={"cod": "1"}))
    assert reply.status == 422
    assert "'cod' was given" in reply.body["errors"][0]["message"]


async def test_an_unknown_field_comes_with_the_nearest(api: Api) -> None:
    """This holds in a head, a recipient, a template and a pause."""
    asked = [
        ("POST", BLAST, {"templateId": "otp", "channels": ["email"], "dryrun": True, "recipients": []}, "dryRun"),
        ("POST", BLAST, {"templateId": "otp", "channels": ["email"], "recipients": [{"fone": "1"}]}, "phone"),
        ("POST", "/api/templates", {**GREETING, "subjekt": "x"}, "subject"),
        ("POST", "/api/channels/email/pause", {"resaon": "x"}, "reason"),
    ]
    for method, path, body, near in asked:
        reply = await api.call(
            method, path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        assert reply.status == 422
        messages = [one["message"] for one in reply.body["errors"] if one["code"] == "UNKNOWN_FIELD"]
        assert f"did you mean {near!r}?" in messages[0], path
