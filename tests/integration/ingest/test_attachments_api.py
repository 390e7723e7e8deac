"""Attachments through the API: accepted ones reach the job unchanged; problems are reported by field."""

from __future__ import annotations

import base64
from typing import Any

from redis.asyncio import Redis

from shared.queue.files import FileStore
from shared.sending.caches import FileCache
from tests.integration.ingest.provocations import template
from tests.integration.ingest.running import Api, person
from tests.integration.ingest.test_blasts import queued

FILE = {
    "filename": "invite.ics",
    "contentType": 'text/calendar; method="REQUEST"; charset=utf-8',
    "content": "QkVHSU4=",
}


async def test_an_invitation_reaches_its_job(api: Api, redis: Redis) -> None:
    """Its parameters are kept, and its base64 content with line breaks is decoded."""
    content = "\n".join(base64.b64encode(b"BEGIN:VCALENDAR").decode()[start : start + 4] for start in range(0, 20, 4))
    assert (await api.blast(person() | {"attachments": [{**FILE, "content": content}]})).status == 202
    (job,) = await queued(redis)
    (found,) = (await FileCache(FileStore(redis)).whole(job)).recipient.attachments or []
    assert (found.content_type, found.content) == ("text/calendar; method=REQUEST; charset=utf-8", b"BEGIN:VCALENDAR")


async def test_every_problem_of_an_attachment_is_named(api: Api) -> None:
    """Problems of the blast's and of the recipients' attachments have their paths."""
    bad = {"filename": "a/b", "contentType": "text/plain; charset", "content": "?", "contentId": "a b"}
    reply = await api.blast(person() | {"attachments": [FILE, bad]})
    assert reply.status == 422
    names = ["filename", "contentId", "contentType", "content"]
    path = "recipients[0].attachments[1]"
    assert [one["field"] for one in reply.body["errors"]] == [f"{path}.{name}" for name in names]
    reply = await api.blast(person(), attachments=[bad])
    assert [one["field"] for one in reply.body["errors"]] == [f"attachments[0].{name}" for name in names]


async def test_an_image_that_the_html_shows_must_be_attached(api: Api, redis: Redis) -> None:
    """The blast or the recipient must attach it; previews do not require it."""
    made = template(id="shown", html='<img src="cid:logo"> {{ name }}')
    assert (await api.post("/api/templates", made)).status == 201
    logo: dict[str, Any] = {"filename": "l.png", "contentType": "image/png", "content": "AAAA", "contentId": "<logo>"}
    other = {**logo, "contentId": "other"}
    missing = await api.blast(person(), templateId="shown", attachments=[other])
    assert (missing.status, missing.problem("recipients[0].attachments")) == (422, "MISSING_ATTACHMENT")
    assert (await api.blast(person(), templateId="shown", attachments=[logo])).status == 202
    assert (await api.blast(person() | {"attachments": [logo]}, templateId="shown")).status == 202
    assert len(await queued(redis)) == 2
    twice = await api.blast(person() | {"attachments": [logo]}, templateId="shown", attachments=[logo])
    assert twice.problem("recipients[0].attachments[0].contentId") == "INVALID_VALUE"
    preview = {"templateId": "shown", "channel": "email", "recipient": person()}
    assert (await api.post("/api/messages/preview", preview)).status == 200
