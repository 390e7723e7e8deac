"""What answers mean, without a network: ids, waits and odd bodies. The codes are tried over HTTP elsewhere."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ],
)
def test_the_id_is_read_from_three_places(body: object, message_id: str) -> None:
    """messages[0].id, then data.id, then id; the answer is kept as it came."""
    receipt = read_answer(said(body))
    assert receipt.message_id == message_id
    assert receipt.response == orjson.dumps(body).decode()


@pytest.mark.parametrize("raw", [b"{}", b"", b"ok", b"[]", b'{"messages":[{}]}', b"null", b'{"id":true}', b"\xff"])
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
    """Both forms of RFC 9110; no wait, a date that has passed and nonsense are none asked for, a day is the most."""
    assert retry_after_s(said({}, 429, text)) == wait_s


def test_the_code_comes_before_the_status() -> None:
    """A rate limit answered with 403 is a rate limit, a bad token answered with 500 stops the channel."""
    assert isinstance(refused(said({"error": {"code": 130429}}, 403)), DeferredError)
    assert isinstance(refused(said({"error": {"code": 190}}, 500)), StopChannelError)
    assert isinstance(refused(said({"error": {"code": 131026}}, 200)), PermanentError)


def test_unknown_codes_go_by_the_status() -> None:
    """A code that nobody has seen yet is transient, unless the status says more."""
    assert isinstance(refused(said({"error": {"code": 139999}}, 400)), TransientError)
    assert isinstance(refused(said({"error": {"code": 139999}}, 401)), StopChannelError)
    assert isinstance(refused(said({"error": {"code": 139999}}, 429, "3")), DeferredError)
    assert refused(said({"error": {"code": 139999}}, 400)).code == "139999"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "131026", "message": "no"}},
        {"errors": [{"code": 131026, "title": "no"}]},
        {"errors": {"code": 131026, "message": "no"}},
    ],
)
def test_other_shapes_of_an_error(body: object) -> None:
    """A code in quotes, the older API's list, Qiscus's own object."""
    error = refused(said(body, 400))
    assert isinstance(error, PermanentError)
    assert error.message == "WhatsApp error 131026: no"


def test_the_reason_is_readable_and_the_words_are_kept() -> None:
    """The message names code, words and details; the raw body is kept whole."""
    body = {"error": {"message": "(#132000) Count mismatch", "code": 132000, "error_data": {"details": "body: 2 of 3"}}}
    error = refused(said(body, 400))
    assert error.message == "WhatsApp error 132000: (#132000) Count mismatch (body: 2 of 3)"
    assert error.reply == orjson.dumps(body).decode()
    assert error.code == "132000"


def test_a_server_failure_is_5xx_without_a_code() -> None:
    """A gateway's page is the server's failure; an error with a code is an answer, and so is any 4xx."""
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
    """Whatever JSON comes with whatever status, there is a receipt with an id, or an outcome class."""
    try:
        receipt = read_answer(said(body, status))
    except SendError:
        return
    assert receipt.message_id
