"""What Meta and Qiscus demand of a message: path, version, headers, and every field of the body.

Written from their references, not from the code under test: developers.facebook.com, business messaging, WhatsApp,
reference, "Send message" (the template object and its components); documentation.qiscus.com, WhatsApp Business API.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web

Digits = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{6,14}$")]


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """An object without any other fields."""


class _Media(_Strict):
    link: Annotated[str, msgspec.Meta(pattern=r"^https?://")]
    filename: str = "document"


class _Text(_Strict, tag="text"):
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=32768)]


class _Image(_Strict, tag="image"):
    image: _Media


class _Video(_Strict, tag="video"):
    video: _Media


class _Document(_Strict, tag="document"):
    document: _Media


class _Header(_Strict, tag="header"):
    parameters: Annotated[list[_Text | _Image | _Video | _Document], msgspec.Meta(min_length=1, max_length=1)]


class _Body(_Strict, tag="body"):
    parameters: Annotated[list[_Text], msgspec.Meta(min_length=1)]


class _Button(_Strict, tag="button"):
    sub_type: Literal["url", "quick_reply", "copy_code"]
    index: Annotated[str, msgspec.Meta(pattern=r"^[0-9]$")]
    parameters: Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=1)]


class _Language(_Strict):
    policy: Literal["deterministic"]
    code: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,3}(_[A-Z]{2,3})?$")]


class _Template(_Strict):
    """A template as the Cloud API takes it; its namespace belongs to the API that Meta has withdrawn."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,512}$")]
    language: _Language
    components: list[_Header | _Body | _Button] = []


class _QiscusTemplate(_Template):
    namespace: str = ""


class _Message(_Strict):
    to: Digits
    type: Literal["template"]
    biz_opaque_callback_data: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class _MetaMessage(_Message, kw_only=True):
    messaging_product: Literal["whatsapp"]
    recipient_type: Literal["individual"]
    template: _Template


class _QiscusMessage(_Message, kw_only=True):
    template: _QiscusTemplate


def meta_problem(request: web.Request, raw: bytes) -> str:
    """Return what Meta would refuse in a request to number 106540352242922 by version 23.0, "" for nothing."""
    wanted = {"Authorization": "Bearer s3cret", "Content-Type": "application/json"}
    return _problem(request, "/v23.0/106540352242922/messages", wanted) or _problem_of_body(raw, _MetaMessage)


def qiscus_problem(request: web.Request, raw: bytes) -> str:
    """Return what Qiscus would refuse in a request to channel 42 of the app, "" for nothing."""
    wanted = {"Qiscus-App-Id": "app", "Qiscus-Secret-Key": "s3cret", "Content-Type": "application/json"}
    return _problem(request, "/whatsapp/v1/app/42/messages", wanted) or _problem_of_body(raw, _QiscusMessage)


def _problem(request: web.Request, path: str, headers: dict[str, str]) -> str:
    if (request.method, request.path_qs) != ("POST", path):
        return f"{request.method} {request.path_qs}"
    given = {name: request.headers.get(name) for name in headers}
    return "" if given == headers else f"headers {given}"


def _problem_of_body(raw: bytes, kind: type[_Message]) -> str:
    try:
        msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        return str(error)
    return ""
