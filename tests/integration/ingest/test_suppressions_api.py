"""Suppressions through the API: what they stop, and how they are found, lifted, exported and imported."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.queue.suppressions import Suppressions
from shared.unsubscribe import make_token
from tests.integration.ingest.provocations import CSV
from tests.integration.ingest.running import SECRET, Api, Reply

PATH = "/api/suppressions"


async def add(api: Api, address: str, channel: str = "email", **more: Any) -> dict[str, Any]:
    reply = await api.post(PATH, {"channel": channel, "address": address, **more})
    assert reply.status in {200, 201}, reply.text
    found: dict[str, Any] = reply.body["suppression"]
    return found


async def listed(api: Api, query: str = "") -> list[str]:
    """Return the addresses that a search finds, from all its pages."""
    found: list[str] = []
    cursor = ""
    while True:
        page = (await api.get(f"{PATH}?limit=2&{query}" + (f"&cursor={cursor}" if cursor else ""))).body
        found += [one["address"] for one in page["suppressions"]]
        cursor = page["nextCursor"]
        if not cursor:
            return sorted(found)


async def load(api: Api, text: str | bytes, query: str = "", **headers: str) -> Reply:
    data = text.encode() if isinstance(text, str) else text
    return await api.call("POST", f"{PATH}/import?{query}", data=data, headers=CSV | headers)


async def test_a_suppression_added_by_hand_stops_all_messages(api: Api) -> None:
    """This is the default; it has a date and a source, and lasts until it is lifted."""
    found = await add(api, "Siti@Example.com")
    assert found["createdAt"]
    assert {name: found[name] for name in ("channel", "address", "scope", "source", "reason", "expiresAt")} == {
        "channel": "email",
        "address": "siti@example.com",
        "scope": "all",
        "source": "api",
        "reason": "manual",
        "expiresAt": None,
    }
    assert found["evidence"] == {"jobId": None, "words": None, "by": None}
    assert (await api.get(f"{PATH}/{found['id']}")).body["suppression"] == found


@pytest.mark.parametrize(
    ("source", "scope"),
    [("api", "all"), ("bounce", "all"), ("import", "all"), ("unsubscribe", "marketing"), ("opt_out", "marketing"),
     ("complaint", "marketing")],
)  # fmt: skip
async def test_the_scope_follows_from_the_source(source: str, scope: str, api: Api) -> None:
    """A recipient who unsubscribed from offers still gets order confirmations; an explicit scope wins."""
    assert (await add(api, "a@example.com", source=source))["scope"] == scope
    for wanted in ("all", "marketing"):
        assert (await add(api, "b@example.com", source=source, scope=wanted))["scope"] == wanted


async def test_a_suppression_has_its_evidence_and_its_end(api: Api) -> None:
    """It has the message, the quoted words, and the time when it ends."""
    evidence = {"jobId": "b:0:email", "words": "asked by phone"}
    found = await add(api, "a@example.com", expiresAt="2999-01-01T00:00:00Z", evidence=evidence, reason="asked")
    assert (found["expiresAt"], found["reason"]) == ("2999-01-01T00:00:00.000Z", "asked")
    assert found["evidence"] == {**evidence, "by": None}


async def test_a_suppression_may_last_until_the_last_representable_time(api: Api) -> None:
    """In UTC this is the year 10000, which RFC 3339 cannot write: lists that contain it can still be read."""
    found = await add(api, "a@example.com", expiresAt="9999-12-31T23:59:59-14:00")
    assert found["expiresAt"] == "9999-12-31T23:59:59.999Z"
    rows = b"email,expires\nb@example.com,9999-12-31T23:59:59-14:00\n"
    assert (await api.post(f"{PATH}/import", data=rows, headers={"Content-Type": "text/csv"})).status == 200
    assert len((await api.get(PATH)).body["suppressions"]) == 2
    assert (await api.get(f"{PATH}?format=csv")).text.count("9999-12-31T23:59:59.999Z") == 2


async def test_one_page_covers_every_channel(api: Api) -> None:
    """A search for a number finds it in one page, although another channel's addresses are scanned before it."""
    await add(api, "a@example.com")
    await add(api, "081224770000", channel="whatsapp")
    for query, found in (
        ("address=0812-2477", ["6281224770000"]),
        ("reason=manual", ["a@example.com", "6281224770000"]),
        ("", ["a@example.com", "6281224770000"]),
    ):
        reply = await api.get(f"{PATH}?{query}")
        assert [one["address"] for one in reply.body["suppressions"]] == found
        assert reply.body["nextCursor"] is None
    first = (await api.get(f"{PATH}?limit=1")).body
    rest = (await api.get(f"{PATH}?limit=1&cursor={first['nextCursor']}")).body
    assert [one["address"] for one in first["suppressions"] + rest["suppressions"]] == [
        "a@example.com",
        "6281224770000",
    ]
    assert rest["nextCursor"] is None


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("expiresAt", "2001-01-01T00:00:00Z", "TIME_IN_PAST"), ("scope", "some", "INVALID_VALUE"),
     ("source", "nowhere", "INVALID_VALUE"), ("channel", "pigeon", "UNKNOWN_CHANNEL"),
     ("address", "nobody", "INVALID_EMAIL"), ("until", "x", "UNKNOWN_FIELD")],
)  # fmt: skip
async def test_a_bad_field_is_named(field: str, value: str, code: str, api: Api) -> None:
    """The answer is 422 with the field's path."""
    reply = await api.post(PATH, {"channel": "email", "address": "a@example.com", field: value})
    assert (reply.status, reply.problem(field)) == (422, code)


async def test_suppressions_are_searched(api: Api) -> None:
    """The filters are part of the address in any spelling, scope, source, reason and channel, page by page."""
    await add(api, "siti+news@example.com", source="unsubscribe", reason="tired of it")
    await add(api, "budi@münchen.de", source="bounce", reason="Mailbox Full")
    await add(api, "ani@example.com")
    await add(api, "+6281224770000", "whatsapp", source="opt_out")
    found = {
        "address=SITI%2BNEWS": ["siti+news@example.com"],
        "address=siti%2Bnews@Example.com": ["siti+news@example.com"],
        "address=@m%C3%BCnchen.de": ["budi@xn--mnchen-3ya.de"],
        "address=0812": ["6281224770000"],
        "address=%2B62812": ["6281224770000"],
        "address=0812-2477-0000": ["6281224770000"],
        "address=example.com": ["ani@example.com", "siti+news@example.com"],
        "scope=all": ["ani@example.com", "budi@xn--mnchen-3ya.de"],
        "scope=marketing&channel=whatsapp": ["6281224770000"],
        "source=bounce": ["budi@xn--mnchen-3ya.de"],
        "reason=mailbox": ["budi@xn--mnchen-3ya.de"],
        "reason=nothing": [],
        "channel=email": ["ani@example.com", "budi@xn--mnchen-3ya.de", "siti+news@example.com"],
        "": ["6281224770000", "ani@example.com", "budi@xn--mnchen-3ya.de", "siti+news@example.com"],
    }
    assert {query: await listed(api, query) for query in found} == found


@pytest.mark.parametrize(
    "query",
    [
        "scope=some", "source=x", "channel=x", "format=xml", "for=spreadsheet", f"reason={'x' * 400}",
        "limit=0", "limit=1001", "limit=-1", "limit=0000000011000000", f"limit=000000001{'9' * 5000}", "limit=\u0661",
    ],
)  # fmt: skip
async def test_a_bad_search_is_refused(query: str, api: Api) -> None:
    """Every invalid filter gets 400."""
    assert (await api.get(f"{PATH}?{query}")).body["code"] == "INVALID_QUERY"


async def test_pages_keep_the_requested_limit(api: Api) -> None:
    """Pages keep their limit although Redis returns a small table whole."""
    for number in range(9):
        await add(api, f"r{number}@example.com")
    first = (await api.get(f"{PATH}?limit=4")).body
    assert len(first["suppressions"]) == 4
    assert len(await listed(api)) == 9
    assert (await api.get(f"{PATH}?cursor=0.0.x")).body["code"] == "INVALID_CURSOR"


async def test_lifting_one_scope_leaves_the_other(api: Api) -> None:
    """The id decides which; an id from an earlier version refers to both."""
    bounce = await add(api, "a@example.com", source="bounce")
    opt_out = await add(api, "a@example.com", source="unsubscribe")
    assert (await api.call("DELETE", f"{PATH}/{bounce['id']}")).status == 200
    assert (await api.call("DELETE", f"{PATH}/{bounce['id']}")).status == 404
    assert (await api.get(f"{PATH}/{opt_out['id']}")).status == 200
    await add(api, "a@example.com", source="bounce")
    assert (await api.call("DELETE", f"{PATH}/ZW1haWw6YUBleGFtcGxlLmNvbQ")).status == 200
    assert await listed(api) == []


async def test_lifting_by_filter_counts_first(api: Api) -> None:
    """Nothing is lifted without the right count, and an empty filter never matches everything."""
    for number in range(3):
        await add(api, f"old{number}@example.com", source="bounce")
    await add(api, "a@example.com")
    await add(api, "+6281224770000", "whatsapp", source="bounce")
    body = {"source": "bounce", "channel": "email"}
    counted = await api.post(f"{PATH}/lift", body)
    assert (counted.status, counted.body["matched"], counted.body["lifted"]) == (200, 3, 0)
    wrong = await api.post(f"{PATH}/lift", {**body, "confirm": 4})
    assert (wrong.status, wrong.body["code"]) == (409, "CONFIRMATION_MISMATCH")
    assert "3 suppressions match" in wrong.body["message"]
    for empty in ({}, {"confirm": 5}, {"reason": "", "confirm": 5}):
        assert (await api.post(f"{PATH}/lift", empty)).body["code"] == "REQUIRED"
    assert len(await listed(api)) == 5
    assert (await api.post(f"{PATH}/lift", {**body, "confirm": 3})).body["lifted"] == 3
    assert await listed(api) == ["6281224770000", "a@example.com"]


@pytest.mark.parametrize("field", ["address", "reason"])
async def test_a_blank_filter_lifts_nothing(field: str, api: Api) -> None:
    """It would match every suppression, as no filter would."""
    reply = await api.post("/api/suppressions/lift", {field: "  "})
    assert (reply.status, reply.body["code"]) == (422, "REQUIRED"), reply.text


async def test_an_export_is_imported_unchanged(api: Api) -> None:
    """Addresses that a spreadsheet would read as formulas survive, in a plain file and in one for spreadsheets."""
    for address in ("=cmd@example.com", "+x@example.com", "'tis@example.com", "'=y@example.com", "-z@example.com"):
        await add(api, address, source="unsubscribe", reason="=1+1", evidence={"words": 'said "no",\nloudly'})
    await add(api, "+6281224770000", "whatsapp", expiresAt="2999-01-01T00:00:00Z")
    before = await everything(api)
    assert len(before) == 6
    for query in ("format=csv", "format=csv&for=spreadsheet"):
        exported = await api.get(f"{PATH}?{query}")
        assert exported.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert "\n=" not in exported.text.replace('\n="', "")
        for channel in ("email", "whatsapp"):
            count = (await api.post(f"{PATH}/lift", {"channel": channel})).body["matched"]
            assert (await api.post(f"{PATH}/lift", {"channel": channel, "confirm": count})).body["lifted"] == count
        reply = await load(api, exported.text)
        assert (reply.status, reply.body["added"], reply.body["ignoredColumns"]) == (200, 6, []), reply.text
        assert await everything(api) == before


async def everything(api: Api) -> list[dict[str, Any]]:
    lines = (await api.get(f"{PATH}?format=ndjson")).text.splitlines()
    return sorted(map(json.loads, lines), key=lambda one: str(one["id"]))


async def test_an_export_for_spreadsheets_has_a_mark_and_numbers_as_text(api: Api) -> None:
    """Otherwise a number would lose digits, and UTF-8 would be misread."""
    await add(api, "+6281224770000", "whatsapp")
    text = (await api.get(f"{PATH}?format=csv&for=spreadsheet")).text
    assert text.startswith("\ufeffchannel,address,")
    assert '"=""6281224770000"""' in text
    plain = list(csv.DictReader(io.StringIO((await api.get(f"{PATH}?format=csv")).text)))
    assert plain[0]["address"] == "6281224770000"


@pytest.mark.parametrize(
    "header",
    [
        "email",
        "E-Mail",
        "Email Address",
        "EMAIL_ADDRESS",
        "emailAddress",
        "address",
        "Recipient",
        "\ufeffemail",
        " mail ",
    ],
)
async def test_a_column_of_addresses_has_many_accepted_names(header: str, api: Api) -> None:
    """The names are those of other systems and of common use."""
    reply = await load(api, f"{header}\nSiti@Example.com\n")
    assert (reply.status, reply.body["added"]) == (200, 1), reply.text
    assert await listed(api) == ["siti@example.com"]


async def test_a_foreign_file_is_imported(api: Api) -> None:
    """Other names of columns and sources, times in seconds and two addresses in a row work; others are listed."""
    text = (
        "Phone Number;E-mail;Type;Created;Error;Status\n"
        "0812-2477-0000;siti@example.com;HardBounce;1700000000;550 5.1.1;x\n"
        ";budi@example.com;unsubscribed;2023-11-14 22:13:20;;\n"
        '="081281830001";;;;;\n'
    )
    reply = await load(api, text)
    assert (reply.body["total"], reply.body["added"], reply.body["ignoredColumns"]) == (4, 4, ["Status"]), reply.text
    found = {one["address"]: one for one in await everything(api)}
    assert {address: (one["source"], one["scope"], one["createdAt"]) for address, one in found.items()} == {
        "6281224770000": ("bounce", "all", "2023-11-14T22:13:20.000Z"),
        "siti@example.com": ("bounce", "all", "2023-11-14T22:13:20.000Z"),
        "budi@example.com": ("unsubscribe", "marketing", "2023-11-14T22:13:20.000Z"),
        "6281281830001": ("import", "all", found["6281281830001"]["createdAt"]),
    }
    assert (found["siti@example.com"]["reason"], found["budi@example.com"]["reason"]) == ("550 5.1.1", "imported")


async def test_an_import_is_safe_to_repeat(api: Api) -> None:
    """Existing suppressions stay; one that goes further or lasts longer is changed."""
    text = "email,scope,reason,expiresAt\na@example.com,marketing,first,2999-01-01\nb@example.com,,first,\n"

    async def counts(file: str) -> list[int]:
        answer = (await load(api, file)).body
        return [answer[name] for name in ("total", "added", "changed", "unchanged", "rejected")]

    assert await counts(text) == [2, 2, 0, 0, 0]
    before = await everything(api)
    assert await counts(text) == [2, 0, 0, 2, 0]
    assert await everything(api) == before
    longer = "email,scope\na@example.com,marketing\na@example.com,all\nb@example.com,marketing\n"
    assert await counts(longer) == [3, 0, 3, 0, 0]


async def test_bad_rows_are_listed_with_their_lines(api: Api) -> None:
    """Strict, the default, stores nothing; permissive stores the valid rows; a dry run stores nothing."""
    text = "email,scope,createdAt\na@example.com,,\nnobody,,\n\nb@example.com,some,\nc@example.com,,soon\n,,x\n"
    strict = await load(api, text)
    assert (strict.status, strict.body["code"]) == (422, "VALIDATION_FAILED")
    assert [(one["field"], one["message"].partition(":")[0]) for one in strict.body["errors"]] == [
        ("rows[1].email", "line 3"),
        ("rows[2].scope", "line 5"),
        ("rows[3].createdAt", "line 6"),
        ("rows[4].createdAt", "line 7"),
        ("rows[4].address", "line 7"),
    ]
    dry = await load(api, text, "validation=permissive&dryRun=true")
    assert (dry.body["total"], dry.body["added"], dry.body["rejected"], dry.body["dryRun"]) == (1, 0, 4, True)
    assert await listed(api) == []
    permissive = await load(api, text, "validation=permissive")
    assert (permissive.status, permissive.body["added"], permissive.body["rejected"]) == (200, 1, 4)
    assert len(permissive.body["errors"]) == 5
    assert await listed(api) == ["a@example.com"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "name,city\nSiti,Jakarta\n",
        "siti@example.com\nbudi@example.com\n",
        "siti@example.com\n",
        '[{"email":"siti@example.com"}]',
    ],
)
async def test_a_file_without_a_column_of_addresses_is_one_error(text: str, api: Api) -> None:
    """The rows do not repeat the error. A file of one line, which would be its header, suppresses nobody."""
    reply = await load(api, text)
    assert (reply.status, reply.body["code"], reply.body["errors"]) == (400, "MALFORMED_CSV", [])


async def test_a_file_of_no_rows_is_imported(api: Api) -> None:
    """An export of an empty list has only its header."""
    reply = await load(api, "channel,address,scope\n")
    assert (reply.status, reply.body["total"]) == (200, 0), reply.text


async def test_a_spreadsheets_mark_is_not_part_of_an_address(api: Api) -> None:
    """The address without it is suppressed; with it nobody would be."""
    assert (await load(api, "email,phone\n'siti@example.com,'0812-2477-0000\n")).body["added"] == 2
    assert sorted(await listed(api)) == ["6281224770000", "siti@example.com"]


@pytest.mark.parametrize("address", ["*@example.com", "%@example.com", " *@example.com"])
async def test_a_pattern_is_refused(address: str, api: Api) -> None:
    """It would be stored as the mailbox of this name, and stop no message to the domain."""
    reply = await api.post("/api/suppressions", {"channel": "email", "address": address})
    assert (reply.status, reply.body["code"]) == (422, "INVALID_EMAIL"), reply.text
    assert (await load(api, f"email\n{address}\n")).body["code"] == "INVALID_EMAIL"
    assert await listed(api) == []


async def test_an_unknown_source_is_refused_with_the_known_ones(api: Api) -> None:
    """The scope follows from the source, so it is not guessed."""
    reply = await load(api, "email,type\nsiti@example.com,soft bounce\n")
    assert "line 2: the source 'soft bounce' is unknown: use api, bounce, complaint" in reply.body["message"]


@pytest.mark.parametrize("query", ["scope=some", "channel=x", "source=x", "validation=x", "dryRun=maybe"])
async def test_a_bad_default_is_refused(query: str, api: Api) -> None:
    """The answer is 400, before anything is read."""
    assert (await load(api, "email\na@example.com\n", query)).body["code"] == "INVALID_QUERY"


async def test_defaults_apply_to_rows_without_their_own_values(api: Api) -> None:
    """They come from the query: scope, source and reason."""
    assert (await load(api, "email\na@example.com\n", "scope=marketing&source=complaint&reason=moved")).status == 200
    (found,) = await everything(api)
    assert (found["scope"], found["source"], found["reason"]) == ("marketing", "complaint", "moved")


async def test_a_large_compressed_file_is_imported(api: Api) -> None:
    """It is imported in blocks, whatever its length."""
    lines = "\n".join(["email", *(f"r{number}@example.com" for number in range(20_000))])
    reply = await load(api, gzip.compress(lines.encode()), **{"Content-Encoding": "gzip"})
    assert (reply.body["total"], reply.body["added"]) == (20_000, 20_000)
    assert len(await everything(api)) == 20_000


@pytest.fixture
async def unwritten(redis: Redis) -> AsyncIterator[Redis]:
    """Fill the events of email to beyond half of what they may take."""
    await redis.config_set("maxmemory", 100_000_000)
    for _ in range(140):
        await redis.xadd("{email}:events", {"d": b"x" * 100_000})
    yield redis
    await redis.config_set("maxmemory", 0)


async def test_an_import_waits_while_events_are_unwritten(unwritten: Redis, api: Api) -> None:
    """It continues once the logger has written them; a check of the file alone does not wait."""
    dry = await load(api, "email\na@example.com\n", "dryRun=true")
    assert dry.status == 200
    loading = asyncio.ensure_future(load(api, "email\na@example.com\n"))
    await asyncio.wait({loading}, timeout=1.0)
    assert not loading.done()
    assert await listed(api) == []
    await unwritten.delete("{email}:events")
    assert (await loading).body["added"] == 1


async def test_a_suppression_is_refused_while_events_are_unwritten(unwritten: Redis, api: Api) -> None:
    """The answer is 429 and says when to try again; another channel is not affected."""
    reply = await api.post(PATH, {"channel": "email", "address": "a@example.com"})
    assert (reply.status, reply.body["code"]) == (429, "BACKLOG_FULL")
    assert reply.headers["Retry-After"]
    assert "wait for the logger" in reply.body["message"]
    await add(api, "081224770000", channel="whatsapp")
    await unwritten.delete("{email}:events")
    await add(api, "a@example.com")


async def test_recipients_may_unsubscribe_while_events_are_unwritten(unwritten: Redis, api: Api) -> None:
    """A recipient's own wish is never refused."""
    token = make_token(SECRET, "email", "ann@example.com")
    assert (await api.post(f"/u/{token}", data={"List-Unsubscribe": "One-Click"})).status == 200
    assert await Suppressions(unwritten).get("email", "ann@example.com")
