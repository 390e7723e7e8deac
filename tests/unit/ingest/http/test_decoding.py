"""The problems of a body: each is about the field that has it, whatever the field should hold."""

from __future__ import annotations

import pytest

from services.ingest.http.decoding import decode_struct
from services.ingest.http.errors import ApiError
from services.ingest.http.requests import RecipientRequest
from services.ingest.webhooks.requests import WebhookRequest

FILE = b'{"filename": "a.pdf", "contentType": "application/pdf", "content": "aGk="}'


@pytest.mark.parametrize("body", [b'{"attachments": {}}', b'{"nope": 1, "attachments": ' + FILE + b"}"])
def test_an_object_in_the_place_of_a_list_is_a_problem_of_the_field(body: bytes) -> None:
    """It is not taken for an item, beside other problems either."""
    with pytest.raises(ApiError) as caught:
        decode_struct(body, RecipientRequest)
    assert ("attachments", "INVALID_TYPE") in {(one.field, one.code) for one in caught.value.problems}


def test_each_field_of_an_object_in_an_object_has_its_problem() -> None:
    """Also where the object may be null."""
    body = b'{"url": "https://a.example.com/", "events": ["*"], "batch": {"max": 0, "withinMs": -1, "size": 2}}'
    with pytest.raises(ApiError) as caught:
        decode_struct(body, WebhookRequest)
    assert {one.field for one in caught.value.problems} == {"batch.max", "batch.withinMs", "batch.size"}
