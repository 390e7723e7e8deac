"""The classification of responses without a network: ids, waits and odd bodies. Other tests try codes over HTTP."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp_sender.bodies import find_fault, may_refuse, says_no, stated_status
from services.whatsapp_sender.replies import Answer, is_server_failure, read_answer, retry_after_s
from shared.errors import (
    DeferredError,
    PermanentError,
    SendError,
    StopChannelError,
    TransientError,
    UncertainError,
)

NOW_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def said(body: object, status: int = 200, retry_after: str = "") -> Answer:
    return Answer(status, orjson.dumps(body), retry_after, NOW_S)


def refused(answer: Answer) -> SendError:
    with pytest.raises(SendError) as caught:
        read_answer(answer)
    return caught.value


@pytest.mark.parametrize(
    ("body", "message_id"),
    [
        ({"messages": [{"id": "wamid.1"}], "data": {"id": "2"}, "id": "3"}, "wamid.1"),
        ({"messages": [], "data": {"id": "2"}, "id": "3"}, "2"),
        ({"messages": "?", "data": [], "id": 3}, "3"),
        ({"messages": [{"id": ""}], "data": {"id": None}, "id": "3"}, "3"),
        ({"messages": [{"id": "w" * 512}]}, "w" * 512),
        ({"messages": [{"id": "w" * 5000}]}, "w" * 512),
        ({"data": {"id": "w" * 10_000}}, "w" * 512),
    ],
)
def test_the_id_is_read_from_three_places(body: object, message_id: str) -> None:
    """The order is messages[0].id, data.id, id, cut to what the log's index can hold; the response is unchanged."""
    receipt = read_answer(said(body))
    assert receipt.message_id == message_id
    assert receipt.response == orjson.dumps(body).decode()


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b"",
        b"ok",
        b"[]",
        b"<html>Log in to the network</html>",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b'{"messages":[{}]}',
        b"null",
        b'{"id":true}',
        b"\xff",
    ],
)
def test_an_acceptance_without_an_id_is_uncertain(raw: bytes) -> None:
    """No id is ever invented."""
    error = refused(Answer(200, raw))
    assert isinstance(error, UncertainError)
    assert error.code == "http 200"


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Thu, 01 Jan 2026 00:01:30 GMT", 90.0),
        ("Wed, 31 Dec 2025 23:59:00 GMT", None),
        ("0", None),
        ("999999999", 86400.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e3", None),
    ],
)
def test_retry_after_as_seconds_and_as_a_date(text: str, wait_s: float | None) -> None:
    """Both forms of RFC 9110 count, up to a day; zero, a past date and nonsense ask for no wait."""
    assert retry_after_s(said({}, 429, text)) == wait_s


def test_the_code_comes_before_the_status() -> None:
    """A rate limit with status 403 is a rate limit; a bad token with status 500 stops the channel."""
    assert isinstance(refused(said({"error": {"code": 130429}}, 403)), DeferredError)
    assert isinstance(refused(said({"error": {"code": 190}}, 500)), StopChannelError)
    assert isinstance(refused(said({"error": {"code": 131026}}, 200)), PermanentError)


def test_unknown_codes_are_classified_by_the_status() -> None:
    """An unknown code is permanent with a 4xx, unless the status is more specific, and transient otherwise."""
    assert isinstance(refused(said({"error": {"code": 139999}}, 400)), PermanentError)
    assert isinstance(refused(said({"error": {"code": 139999}}, 200)), TransientError)
    assert isinstance(refused(said({"error": {"code": 139999}}, 401)), StopChannelError)
    assert isinstance(refused(said({"error": {"code": 139999}}, 429, "3")), DeferredError)
    assert refused(said({"error": {"code": 139999}}, 400)).code == "139999"


FAULT = {"code": 131026, "message": "no"}


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "131026", "message": "no"}},
        {"error": {"code": " #131026 ", "message": "no"}},
        {"error": {"code": 131026.0, "message": "no"}},
        {"errors": [{"code": 131026, "title": "no"}]},
        {"errors": {"code": 131026, "message": "no"}},
        {"errors": [[FAULT]]},
        {"error": {"error": FAULT}},
        {"error": {"message": "failed", "error": {"errors": [FAULT]}}},
        {"status": 400, "errors": {"error": FAULT}},
        {"data": {"error": FAULT}},
        {"data": {"errors": [FAULT]}},
        {"success": False, "code": 131026, "message": "no"},
        {"code": 131026, "message": "no"},
        {"error": orjson.dumps({"error": FAULT}).decode()},
        {"error": {"error_code": 131026, "message": "no"}},
        [{"error": FAULT}],
    ],
)
def test_other_shapes_of_an_error(body: object) -> None:
    """A code in quotes, the older API's list and Qiscus's own objects are read, nested or as text."""
    error = refused(said(body, 400))
    assert isinstance(error, PermanentError)
    assert (error.code, error.message) == ("131026", "WhatsApp error 131026: no")


@pytest.mark.parametrize(
    "body",
    [
        {"error": "(#131026) Message undeliverable"},
        {"errors": {"message": "(#131026) Message undeliverable"}},
        {"message": "(#131026) Message undeliverable"},
    ],
)
def test_a_code_in_the_words_alone(body: object) -> None:
    """Meta begins its messages with the code, so a proxy that forwards only the message still forwards the code."""
    assert refused(said(body, 400)).code == "131026"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (200, {"status": 401, "error": "Unauthorized"}, StopChannelError, "http 401"),
        (200, {"statusCode": 402, "message": "Payment Required"}, StopChannelError, "http 402"),
        (200, {"error": {"code": 403, "message": "Forbidden"}}, StopChannelError, "http 403"),
        (400, {"status": 401, "errors": {"message": "Unauthorized"}}, StopChannelError, "http 401"),
        (200, {"status": 429, "error": "slow down"}, DeferredError, "http 429"),
        (200, {"status": 422, "errors": {"to": ["is invalid"]}}, PermanentError, "http 422"),
        (200, {"success": False, "message": "it did not work"}, TransientError, "http 200"),
        (200, {"success": False, "code": 200, "message": "wrong number"}, TransientError, "http 200"),
        (400, {"status": "error", "code": 201, "message": "wrong number"}, PermanentError, "http 400"),
        (400, {"type": "OAuthException", "code": 200, "message": "no permission"}, StopChannelError, "200"),
        (400, {"type": "OAuthException", "code": 4, "message": "too many calls"}, DeferredError, "4"),
        (200, {"status": "error", "message": "it did not work"}, TransientError, "http 200"),
        (200, {"error": "it did not work", "id": "request-7"}, TransientError, "http 200"),
        (400, {"code": 1, "message": "bad request"}, PermanentError, "http 400"),
    ],
)
def test_a_refusal_in_the_body_of_an_acceptance(status: int, body: object, kind: type[SendError], code: str) -> None:
    """A refusal counts under any status; a status in the body takes precedence; a request id is not a message id."""
    error = refused(said(body, status))
    assert (type(error), error.code) == (kind, code)


def test_the_fields_that_qiscus_complains_of_are_shown() -> None:
    """An error without a message is shown unchanged."""
    assert (
        refused(said({"errors": {"to": ["can't be blank"]}}, 422)).message == """HTTP 422: {"to": ["can't be blank"]}"""
    )


ACCEPTANCE = '{"contacts":[{"wa_id":"62812"}],"messages":[{"id":"wamid.HBgNNjI4MTIzNDU2"}]}'


@pytest.mark.parametrize(
    "raw",
    [
        ACCEPTANCE.encode("utf-8-sig"),
        ACCEPTANCE.encode("utf-16"),
        ACCEPTANCE.encode("utf-16-le"),
        ACCEPTANCE.encode("utf-16-be"),
        ACCEPTANCE.encode("utf-32"),
        b" \r\n" + ACCEPTANCE.encode() + b"\r\n<!-- served by proxy -->",
        ACCEPTANCE.encode() + ACCEPTANCE.encode(),
        ACCEPTANCE.encode() + b"\x00\x00",
        b"<br />Notice: Undefined index in /srv/app.php\n" + ACCEPTANCE.encode(),
        b")]}',\n" + ACCEPTANCE.encode(),
        b"[" + ACCEPTANCE.encode() + b"]",
        b'{"data":' + ACCEPTANCE.encode() + b"}",
        ACCEPTANCE.replace("62812", "\xe9").encode("latin-1"),
        ACCEPTANCE.replace("62812", "\\ud800").encode(),
        ACCEPTANCE[:-3].encode(),
        ACCEPTANCE.encode() + b"x" * 70_000,
        b'{"error":{"message":"a warning"},' + ACCEPTANCE[1:].encode(),
        b'{"success":false,' + ACCEPTANCE[1:].encode(),
    ],
)
def test_an_acceptance_is_one_however_it_arrives(raw: bytes) -> None:
    """With an id from WhatsApp the message was accepted, whatever surrounds the id, and is never sent again."""
    receipt = read_answer(Answer(200, raw))
    assert receipt.message_id == "wamid.HBgNNjI4MTIzNDU2"
    receipt.response.encode()


@pytest.mark.parametrize("status", [302, 400, 500, 502])
def test_a_refusal_that_names_a_message_is_uncertain(status: int) -> None:
    """A gateway that fails after an acceptance may have forwarded the message."""
    assert isinstance(refused(Answer(status, ACCEPTANCE.encode())), UncertainError)


@pytest.mark.parametrize(
    "raw", [b"[" * 60_000, b'{"a":' * 12_000, b'{"error":' * 7000, b'{"id":1' + b"0" * 9000 + b"}"]
)
def test_absurd_bodies_are_read_in_time(raw: bytes) -> None:
    """Depth and length are bounded."""
    with pytest.raises(SendError):
        read_answer(Answer(400, raw))


def test_the_reason_is_readable_and_the_words_are_kept() -> None:
    """The message has the code, words and details; the raw body is kept in full."""
    body = {"error": {"message": "(#132000) Count mismatch", "code": 132000, "error_data": {"details": "body: 2 of 3"}}}
    error = refused(said(body, 400))
    assert error.message == "WhatsApp error 132000: (#132000) Count mismatch (body: 2 of 3)"
    assert error.reply == orjson.dumps(body).decode()
    assert error.code == "132000"


def test_a_server_failure_is_5xx_without_a_code() -> None:
    """A gateway's page is a failure of the server; an error with a code is an answer, and so is any 4xx."""
    assert is_server_failure(Answer(502, b"<html>Bad Gateway</html>"))
    assert is_server_failure(said({"error": "Internal Server Error"}, 500))
    assert not is_server_failure(said({"error": {"code": 131000}}, 500))
    assert not is_server_failure(Answer(404, b"Not Found"))


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "errors", "code", "messages", "id", "data", "error_data"]), inner)
    ),
    max_leaves=8,
)


@given(body=_json, status=st.integers(200, 599))
def test_no_body_is_a_surprise(body: object, status: int) -> None:
    """Any JSON with any status gives a receipt with an id, or an outcome class."""
    try:
        receipt = read_answer(said(body, status))
    except SendError:
        return
    assert receipt.message_id


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('{"error":{"message":"Empfänger","code":131026}}'.encode("latin-1"), "Empfänger"),
        ('{"error":{"message":"号码错误","code":131026}}'.encode("gbk"), "号码错误"),
        (b'{"error":{"message":"a\\ud800 \\u001b[31m\x01","code":131026}}', "a\ufffd \ufffd[31m\ufffd"),
        ('{"error":{"message":"Empfänger","code":131026}}'.encode("utf-16"), "Empfänger"),
    ],
)
def test_foreign_bytes_neither_hide_the_code_nor_break_the_words(raw: bytes, words: str) -> None:
    """With any charset, lone surrogates and control characters, the code decides and the words stay legible."""
    error = refused(Answer(400, raw))
    assert (error.code, words in error.message) == ("131026", True)
    assert (error.message + error.reply).encode()


@pytest.mark.parametrize(
    "written", ["f\udcfcr", "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "\x00", "9" * 99]
)
def test_odd_retry_after_is_bounded_or_none(written: str) -> None:
    """Arbitrary bytes in the header, or a date out of range, cause no failure."""
    assert (retry_after_s(Answer(429, b"", written)) or 0.0) <= 24 * 3600


FIELDS = ("error", "errors", "data", "status", "statusCode", "status_code", "code", "success", "ok", "messages", "id")


@given(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from([None, False, "", "error", 401, {"error": "no"}])))
def test_a_body_that_cannot_refuse_has_no_sign_of_a_refusal(body: dict[str, Any]) -> None:
    """Most answers are looked at only once for all such signs."""
    if not may_refuse(body):
        assert (find_fault(body), stated_status(body), says_no(body)) == (None, None, False)
