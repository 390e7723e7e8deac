"""A template can be previewed before it is saved."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.ingest.provocations import template
from tests.integration.ingest.running import Api, person

PREVIEW = "/api/messages/preview"


def _draft(**changes: Any) -> dict[str, Any]:
    content = template(**changes)
    del content["id"]
    return content


async def test_a_draft_is_rendered_and_not_kept(api: Api) -> None:
    """The mail is that of the draft; no template comes of it."""
    asked = {"template": _draft(subject="Hi {{ name }}"), "channel": "email", "recipient": person(7, variables={})}
    found = await api.post(PREVIEW, asked)
    assert found.body["preview"]["subject"] == "Hi Person 7"
    assert (await api.get("/api/templates/draft")).status == 404


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"template": _draft(subject="{{ name")}, "template.subject"),
        ({"template": _draft(), "templateId": "otp"}, "templateId"),
        ({}, "templateId"),
        ({"template": _draft(channels=["whatsapp"])}, "template.whatsapp"),
        ({"template": _draft(), "channel": "whatsapp"}, "channel"),
    ],
)
async def test_what_is_wrong_with_a_draft_is_named(api: Api, asked: dict[str, Any], field: str) -> None:
    """Each problem has the path of its field within the request."""
    found = await api.post(PREVIEW, {"channel": "email", "recipient": person(), **asked})
    assert found.status == 422
    assert any(one["field"].startswith(field) for one in found.body["errors"]), found.text
