"""The problems of a body: each is about the field that has it, whatever the field should hold."""

from __future__ import annotations

import time

import pytest

from services.ingest.http.decoding import decode_struct
from services.ingest.http.errors import ApiError
from services.ingest.http.requests import BlastHead, RecipientRequest
from services.ingest.templates.requests import TemplateRequest
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


def test_each_entry_of_a_list_has_its_problems() -> None:
    """They are about its fields, as if the entry stood alone; an entry of another kind is a problem of its place."""
    other = b'{"filename": 1, "contentType": "a/b", "content": "", "size": 2}'
    body = b'{"attachments": [%b, {"filename": "b.pdf"}, 7, %b]}' % (FILE, other)
    with pytest.raises(ApiError) as caught:
        decode_struct(body, RecipientRequest)
    assert {(one.field, one.code) for one in caught.value.problems} == {
        ("attachments[1].contentType", "REQUIRED"),
        ("attachments[1].content", "REQUIRED"),
        ("attachments[2]", "INVALID_TYPE"),
        ("attachments[3].filename", "INVALID_TYPE"),
        ("attachments[3].size", "UNKNOWN_FIELD"),
    }


def test_a_refused_choice_in_a_list_lists_the_choices() -> None:
    """The types of a template's variables are few."""
    body = b'{"id": "t", "name": "T", "channels": ["email"], "variables": [{"name": "a", "type": "integer"}]}'
    with pytest.raises(ApiError) as caught:
        decode_struct(body, TemplateRequest)
    (problem,) = caught.value.problems
    assert problem.field == "variables[0].type"
    assert problem.message.startswith("type cannot be 'integer'; use 'string' or 'number'")


@pytest.mark.cost
def test_a_long_list_is_read_only_in_part() -> None:
    """No valid list is that long: its length is the problem, and it is found at once."""
    body = b'{"templateId": "t", "channels": [%b 1]}' % (b'"x",' * 1_000_000)
    began = time.process_time()
    with pytest.raises(ApiError) as caught:
        decode_struct(body, BlastHead)
    assert [one.field for one in caught.value.problems] == ["channels"]
    assert time.process_time() - began < 1
