"""Attachments: a client's files become those that a job carries; every problem has its path."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

from services.ingest.blasts.recipients import MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS
from services.ingest.http.errors import Problem
from services.ingest.http.requests import AttachmentRequest
from shared.addresses import BLANK
from shared.jobs import Attachment
from shared.media_types import parse_media_type

# control characters, path separators, and marks that reverse the order of letters: after one, `gpj.exe` is displayed as
# `exe.jpg`
_UNFIT_FILENAME = re.compile("[\x00-\x1f\x7f-\x9f/\\\\\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FILENAME_RULE = (
    "a file name cannot contain slashes, line breaks, control characters or marks that change the writing direction"
)
# RFC 2392 gives a part an address-like id; many programs leave out the @
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]+")
# as attributes and styles write it; ids with template tags are computed, and skipped
_SHOWN = re.compile(r"""(?:["'(=]|&quot;)\s*cid:([^\s"'<>()&]+)""", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[^,]{0,500},", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/]")


def attachments_of(
    requests: Sequence[AttachmentRequest], path: str, others: Sequence[Attachment] = ()
) -> tuple[list[Attachment], list[Problem]]:
    """Return files as a job carries them, and every problem; `others` are the message's other attachments."""
    if (count := len(others) + len(requests)) > MAX_ATTACHMENTS and requests:
        what = f"the message has {count} attachments; at most {MAX_ATTACHMENTS} are allowed"
        return [], [Problem(f"{path}attachments", "TOO_LONG", what)]
    found: list[Attachment] = []
    problems: list[Problem] = []
    ids = {one.content_id for one in others if one.content_id}
    for position, request in enumerate(requests):
        at = f"{path}attachments[{position}]"
        attachment, wrong = _attachment(request, at)
        if attachment.content_id in ids:
            what = f"another attachment of this message already has the contentId {attachment.content_id[:60]!r}"
            wrong.append(Problem(f"{at}.contentId", "INVALID_VALUE", what))
        ids |= {attachment.content_id} - {""}
        found.append(attachment)
        problems += wrong
    size = sum(len(one.content) for one in (*others, *found))
    if requests and size > MAX_ATTACHMENT_BYTES:
        what = f"the attachments are {size} bytes in total; at most {MAX_ATTACHMENT_BYTES} are allowed"
        problems.append(Problem(f"{path}attachments", "ATTACHMENTS_TOO_LARGE", what))
    return found, problems


@lru_cache(32)
def shown_content_ids(html: str) -> frozenset[str]:
    """Return the content ids that a template's html shows, except those computed from variables."""
    return frozenset(unquote(found) for found in _SHOWN.findall(html) if "{" not in found)


def _attachment(request: AttachmentRequest, at: str) -> tuple[Attachment, list[Problem]]:
    problems: list[Problem] = []
    content_id = request.content_id.strip().removeprefix("cid:").removeprefix("<").removesuffix(">")
    if _UNFIT_FILENAME.search(request.filename):
        problems.append(Problem(f"{at}.filename", "INVALID_CHARACTERS", _FILENAME_RULE))
    elif not request.filename.strip(BLANK):
        problems.append(Problem(f"{at}.filename", "INVALID_VALUE", "filename shows nothing: give the file a name"))
    if request.content_id and not _CONTENT_ID.fullmatch(content_id):
        what = "a contentId may have letters, digits and signs but no spaces, such as logo or logo@example.com"
        problems.append(Problem(f"{at}.contentId", "INVALID_VALUE", what))
    content, kind = b"", request.content_type
    try:
        kind = str(parse_media_type(request.content_type))
    except ValueError as error:
        problems.append(Problem(f"{at}.contentType", "INVALID_VALUE", str(error)))
    try:
        content = decoded(request.content)
    except ValueError as error:
        problems.append(Problem(f"{at}.content", "INVALID_VALUE", str(error)))
    return Attachment(request.filename, kind, content, content_id), problems


def decoded(text: str) -> bytes:
    """Decode a base64 text; raises ValueError with a message for the client.

    Accepts common variants: line breaks, no padding, the alphabet for URLs (RFC 4648, section 5), and data URLs.
    """
    if text[:5].lower() == "data:":
        text = _without_scheme(text)
    if not text.isalnum():
        text = "".join(text.split())
    body = text.rstrip("=")
    if "-" in body or "_" in body:
        body = body.translate(_URL_SAFE)
    if wrong := _NO_BASE64.search(body):
        raise ValueError(f"content is not valid base64: it contains {wrong[0]!r}")
    if len(body) % 4 == 1 or len(text) - len(body) > -len(body) % 4:
        raise ValueError("content is not valid base64: it is truncated, or has too much padding")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("content is not valid base64") from error


def _without_scheme(text: str) -> str:
    found = _DATA_URL.match(text)
    if found is None or not found[0][:-1].lower().endswith(";base64"):
        raise ValueError("content is a data URL without base64; write it as data:<type>;base64,…")
    return text[found.end() :]
