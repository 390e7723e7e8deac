"""Texts that show nothing, cells that a spreadsheet has broken, and refusals that say what is allowed."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from tests.integration.ingest.running import Api
from tests.integration.ingest.test_blasts import BLAST, queued
from tests.integration.ingest.test_csv_files import NOTES, post

SITI = {"name": "Siti", "email": "siti@example.com", "variables": {"code": "1"}}
BLANKS = ["\u200b", " \u200b\u00a0", "\ufeff", "\u2060\u200e", "\u3164", "\u2800", "\u3000", "\u00ad"]


def blast(**changes: object) -> dict[str, object]:
    return {"templateId": "otp", "channels": ["email"], "recipients": [SITI], **changes}


@pytest.mark.parametrize("blank", BLANKS)
async def test_a_value_that_shows_nothing_counts_as_missing(blank: str, api: Api) -> None:
    """A mail must not say that nothing is somebody's code."""
    reply = await api.post(BLAST, blast(recipients=[{**SITI, "variables": {"code": blank}}]))
    assert (reply.status, reply.body["code"]) == (422, "MISSING_REQUIRED_VARIABLE")


async def test_a_name_that_shows_nothing_counts_as_missing(api: Api, redis: Redis) -> None:
    """The mail greets without a name, and a value with more than that is kept as it was written."""
    recipient = {"name": "\u200b", "email": "siti@example.com", "variables": {"code": "\u200b1\u200b"}}
    assert (await api.post(BLAST, blast(recipients=[recipient]))).status == 202
    (job,) = await queued(redis)
    assert (job.recipient.name, job.recipient.variables["code"]) == ("", "\u200b1\u200b")


@pytest.mark.parametrize("filename", ["  ", "\u200b"])
async def test_a_file_needs_a_name_that_shows_something(filename: str, api: Api) -> None:
    """Mail programs could not show or save it."""
    file = {"filename": filename, "contentType": "text/plain", "content": "AAAA"}
    reply = await api.post(BLAST, blast(attachments=[file]))
    assert (reply.status, [one["field"] for one in reply.body["errors"]]) == (422, ["attachments[0].filename"])


BROKEN = {
    "#N/A": "the error of a formula", "#REF!": "the error of a formula", "#DIV/0!": "the error of a formula",
    "#BEZUG!": "the error of a formula", "#\u00a1VALOR!": "the error of a formula", "Err:502": "the error of a formula",
    "########": "what a spreadsheet shows where the column is too narrow", "6,28122E+11": "a number that a spreadsheet",
    "4.8E+11": "a number that a spreadsheet", "1E+12": "a number that a spreadsheet",
    "Loading...": "what a spreadsheet shows until", "\\N": "a database's mark for a missing value",
}  # fmt: skip


@pytest.mark.parametrize("cell", BROKEN)
@pytest.mark.parametrize("column", ["code", "name", "reference"])
async def test_a_cell_that_a_spreadsheet_has_broken_is_refused(column: str, cell: str, api: Api, redis: Redis) -> None:
    """Nobody is greeted as #REF! or gets #N/A as a code."""
    row = {"name": "Siti", "email": "siti@example.com", "code": "1", "reference": "r"} | {column: cell}
    raw = ";".join(row) + "\n" + ";".join(row.values()) + "\n"
    reply = await post(api, raw.encode())
    field = f"recipients[0].{'variables.' if column == 'code' else ''}{column}"
    assert [(one["field"], one["code"]) for one in reply.body["errors"]] == [(field, "INVALID_VALUE")]
    shown = "" if column == "code" else f"{cell!r}, "  # it is sensitive, and a shortened number has most of its digits
    assert f"{column} is {shown}{BROKEN[cell]}" in reply.body["errors"][0]["message"]
    assert await queued(redis) == []


async def test_a_broken_cell_costs_only_its_row_and_only_where_it_is_used(api: Api, redis: Redis) -> None:
    """A column that the template does not use may hold anything, and so may a text with more than the error."""
    raw = "email;code;note\na@example.com;#N/A;x\nb@example.com;1;#REF!\nc@example.com;#N/A is an error;#1\n"
    reply = await post(api, raw.encode(), validation="permissive")
    assert (reply.body["totalMessages"], reply.body["rejectedRecipients"]) == (2, 1)
    assert [job.recipient.address for job in await queued(redis)] == ["b@example.com", "c@example.com"]


async def test_a_hashtag_may_be_sent(api: Api, redis: Redis) -> None:
    """Only what a spreadsheet writes in place of a value is refused."""
    assert (await api.post("/api/templates", NOTES)).status == 201
    raw = "name;email;code;note\nSiti;a@example.com;#SALE!;E+1\nC#;b@example.com;###;1e5\n"
    reply = await post(api, raw.encode(), templateId="notes")
    assert (reply.status, len(await queued(redis))) == (202, 2)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (BLAST, blast(validation="Strict"), "validation cannot be 'Strict'; use 'strict' or 'permissive'"),
        (BLAST, blast(onDuplicate="ignore"), "onDuplicate cannot be 'ignore'; use 'collapse' or 'error'"),
        (
            "/api/templates",
            {**NOTES, "category": "Marketing"},
            "category cannot be 'Marketing'; use 'transactional' or 'marketing'",
        ),
        (
            "/api/templates",
            {**NOTES, "id": "a b"},
            "id may have only letters, digits, dots, dashes and underscores, and must begin with a letter or digit",
        ),
        (BLAST, "", "the body is not JSON: it is empty, or its end is missing"),
    ],
)
async def test_a_refusal_says_what_is_allowed(path: str, body: object, message: str, api: Api) -> None:
    """The client need not search the documentation for the words."""
    if isinstance(body, str):
        reply = await api.post(path, data=body, headers={"Content-Type": "application/json"})
    else:
        reply = await api.post(path, body)
    assert reply.body["message"] == message


async def test_the_length_of_a_sensitive_value_may_be_named(api: Api) -> None:
    """The problem says what is wrong, without the value."""
    reply = await api.post(BLAST, blast(recipients=[{**SITI, "variables": {"code": "x" * 70_000}}]))
    assert (reply.body["code"], reply.body["message"]) == ("TOO_LONG", "code is longer than 65536 characters")


@pytest.mark.parametrize("part", ["subject", "html", "text"])
async def test_a_template_has_no_control_characters(part: str, api: Api) -> None:
    """Servers refuse a mail with a zero byte, so each of its messages would fail."""
    body = {**NOTES, "html": "<p>x</p>", part: "a\0b"}
    reply = await api.post("/api/templates", body)
    assert [(one["field"], one["code"]) for one in reply.body["errors"]] == [(part, "INVALID_CHARACTERS")]


async def test_the_link_of_a_picture_is_a_link(api: Api, redis: Redis) -> None:
    """The provider would refuse each message: the recipient is refused before anything is queued."""
    content = {"templateName": "pictured", "language": "en", "headerVariables": ["image:code"]}
    pictured = {**NOTES, "id": "pictured", "channels": ["whatsapp"], "subject": "", "text": "", "whatsapp": content}
    assert (await api.post("/api/templates", pictured)).status == 201
    phones = [{"phone": "081224770000", "variables": {"code": "a.png"}},
              {"phone": "081224770001", "variables": {"code": "https://example.com/a.png?b=c d"}},
              {"phone": "081224770002", "variables": {"code": "HTTPS://example.com/a.png"}}]  # fmt: skip
    terms = {"templateId": "pictured", "channels": ["whatsapp"], "validation": "permissive", "recipients": phones}
    reply = await api.post(BLAST, terms)
    fields = [one["field"] for one in reply.body["errors"]]
    assert fields == ["recipients[0].variables.code", "recipients[1].variables.code"]
    assert "the header's image needs a link such as https://example.com/file" in reply.body["errors"][0]["message"]
    assert [job.recipient.address for job in await queued(redis, "whatsapp")] == ["6281224770002"]
