"""Attachments from clients: variants of base64, file names, media types, content ids."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from services.ingest.blasts.attachments import attachments_of, decoded, shown_content_ids
from services.ingest.http.requests import AttachmentRequest
from shared.jobs import Attachment

RAW = bytes(range(256)) + b"x"
TEXT = base64.b64encode(RAW).decode()
LINES = "\r\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76))


def request(**changes: Any) -> AttachmentRequest:
    return AttachmentRequest(**{"filename": "a.pdf", "content_type": "application/pdf", "content": TEXT} | changes)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        LINES,
        LINES.replace("\r", ""),
        f"  {LINES}\n",
        TEXT.rstrip("="),
        base64.urlsafe_b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode().rstrip("="),
        f"data:application/pdf;base64,{TEXT}",
        f"DATA:;base64,{LINES}",
    ],
)
def test_base64_is_read_in_every_common_form(text: str) -> None:
    """Line breaks, missing padding, the alphabet for URLs and data URLs are accepted."""
    assert decoded(text) == RAW


@pytest.mark.parametrize(
    "text", ["AAAAA", "AAA$", "not base64!", "QQ===", "Q=Q=", "=", "data:text/plain,hello", "data:x", "é"]
)
def test_text_that_is_not_base64_is_refused(text: str) -> None:
    """The message is for the client, not Python's."""
    with pytest.raises(ValueError, match=r"content is (not valid base64|a data URL)"):
        decoded(text)


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"filename": "../etc/passwd"}, "filename", "INVALID_CHARACTERS"),
        ({"filename": "C:\\a.pdf"}, "filename", "INVALID_CHARACTERS"),
        ({"filename": "a\r\nBcc: x"}, "filename", "INVALID_CHARACTERS"),
        ({"filename": "a\u202efdp.exe"}, "filename", "INVALID_CHARACTERS"),
        ({"content_type": "application/pdf\r\nBcc: x"}, "contentType", "INVALID_VALUE"),
        ({"content_type": "pdf"}, "contentType", "INVALID_VALUE"),
        ({"content": "%"}, "content", "INVALID_VALUE"),
        ({"content_id": "a b"}, "contentId", "INVALID_VALUE"),
        ({"content_id": "a>\r\nBcc: x"}, "contentId", "INVALID_VALUE"),
        ({"content_id": "taken"}, "contentId", "INVALID_VALUE"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, str], field: str, code: str) -> None:
    """The problem has the JSON path of the field."""
    others = [Attachment("b.png", "image/png", b"", "taken")]
    _, problems = attachments_of([request(), request(**changes)], "recipients[3].", others)
    assert [(one.field, one.code) for one in problems] == [(f"recipients[3].attachments[1].{field}", code)]


def test_a_message_has_a_bounded_number_of_attachments() -> None:
    """The queue records each file of a job, however small: 250 are accepted, one more is refused."""
    assert attachments_of([request()] * 250, "recipients[3].")[1] == []
    for requests, others in ((251, 0), (1, 250)):
        given = [Attachment("b.png", "image/png", b"")] * others
        found, problems = attachments_of([request()] * requests, "recipients[3].", given)
        assert found == []
        assert [(one.field, one.code) for one in problems] == [("recipients[3].attachments", "TOO_LONG")]
    assert attachments_of([], "", [Attachment("b.png", "image/png", b"")] * 251) == ([], [])


@pytest.mark.parametrize("content_id", ["logo", "<logo>", "cid:logo", "logo@example.com"])
def test_a_content_id_loses_its_brackets(content_id: str) -> None:
    """The id is stored as the html refers to it, without `cid:` or angle brackets."""
    ((one,), problems) = attachments_of([request(content_id=content_id)], "")
    assert problems == []
    assert one.content_id in {"logo", "logo@example.com"}


def test_the_images_that_an_html_shows_are_found() -> None:
    """Ids in attributes and styles are found; ids computed from variables and plain text are not."""
    html = (
        '<img src="cid:logo"><img src=\'CID:a%40b\'><img src=cid:bare><p style="background:url(cid:back)">'
        '<img src="cid:{{ name }}"> acid: cid: none</p>'
    )
    assert shown_content_ids(html) == {"logo", "a@b", "bare", "back"}
