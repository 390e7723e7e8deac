"""Filters are checked strictly and name the problem; cursors survive a round trip."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.logger.filters import (
    InvalidQueryError,
    Span,
    read_api_filter,
    read_message_filter,
    read_page,
    read_span,
    write_cursor,
)
from shared.errors import SendError, TransientError
from shared.queue.sweeper import CANCELLED
from shared.sending.outcomes import _ENDINGS

ROOT = Path(__file__).resolve().parents[3]


def outcome(read: Callable[[], int | None]) -> int | str | None:
    """Return the value, or the error code if it was refused."""
    try:
        return read()
    except InvalidQueryError as error:
        return error.code


def test_deliveries_are_those_that_receipts_can_make() -> None:
    """Several are separated by commas; a kind of receipt that is no delivery is refused."""
    assert read_message_filter({"delivery": "bounced, complained,bounced"}).deliveries == ("bounced", "complained")
    for wrong in ("opted_out", "Bounced", "sent"):
        assert outcome(lambda: len(read_message_filter({"delivery": wrong}).deliveries)) == "INVALID_QUERY"  # noqa: B023 -- run at once


@given(st.integers(1, (1 << 63) - 1))
def test_a_cursor_survives_a_round_trip(row_id: int) -> None:
    """This holds for any row id."""
    assert read_page({"cursor": write_cursor(row_id)}).cursor == row_id


@given(st.text(min_size=1, max_size=40))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    """Any text is either a valid cursor or INVALID_CURSOR."""
    found = outcome(lambda: read_page({"cursor": text}).cursor)
    assert found == "INVALID_CURSOR" or (isinstance(found, int) and 0 < found < 1 << 63)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    """Any text is either a valid time or INVALID_QUERY."""
    found = outcome(lambda: read_span({"from": text}).from_ms)
    assert found in {"INVALID_QUERY", None} or (isinstance(found, int) and found >= 0)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-01-31T12:00:00Z", 1769860800000),
        ("2026-01-31T19:00:00+07:00", 1769860800000),
        ("2026-01-31T19:00:00 07:00", 1769860800000),
        ("2026-01-31 12:00", 1769860800000),
        ("2026-01-31", 1769817600000),
    ],
)
def test_times_are_read_in_any_usual_form(text: str, ms: int) -> None:
    """RFC 3339 is accepted, also with a "+" that arrives as a space; without an offset the time is UTC."""
    assert read_span({"from": text}) == Span(ms, None)


def _written_classes() -> set[str]:
    """Return the classes that the code writes into events as they stand (`Ended` and `Returned`, sixth argument)."""
    calls = [
        node
        for room in ("shared", "services")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Ended", "Returned"} and len(node.args) > 5
    ]
    return {str(call.args[5].value) for call in calls if isinstance(call.args[5], ast.Constant)}


def test_an_unknown_class_of_errors_is_refused_with_those_that_exist() -> None:
    """It was answered with no message, as if none had failed; each class that a message can have is known."""
    with pytest.raises(InvalidQueryError, match=r"'nope' is unknown; use transient, .*, poison"):
        read_message_filter({"error_class": "nope"})
    made = {one.error_class for one in (*SendError.__subclasses__(), *TransientError.__subclasses__())}
    made |= {one.error_class for one in _ENDINGS.values()} | {"gave_up", CANCELLED.error_class}
    written = _written_classes()
    assert written >= {"lost", "undecodable", "untried"}
    for name in made | written:
        assert read_message_filter({"error_class": name}).error_class == name


def test_lists_are_separated_by_commas() -> None:
    """Spaces and duplicates are ignored; the error names an unknown status."""
    assert read_message_filter({"status": "sent, failed,sent"}).statuses == ("sent", "failed")
    with pytest.raises(InvalidQueryError, match="'gone'"):
        read_message_filter({"status": "sent,gone"})


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("siti@example.com", "siti@example.com"),
        ("Siti@Example.COM", "siti@example.com"),
        (" siti", "siti"),
        ("siti+news@example.com", "siti+news@example.com"),
        ("siti news@example.com", "siti+news@example.com"),
        ("siti@m\u00fcnchen.de", "siti@xn--mnchen-3ya.de"),
        ("siti@m\u00fc", "siti@m\u00fc"),
        ("\u200esiti@example.com\u202c", "siti@example.com"),
        ("62812", "62812"),
        ("+62812", "62812"),
        (" 62812", "62812"),
        ("0062 812", "62812"),
        ("0812", "62812"),
        ("0812-2477-20", "628122477" + "20"),
        ("(0812) 2477", "628122477"),
        ("812 2477", "628122477"),
        ("+62 (0)812", "62812"),
        ("+62 0812", "62812"),
        ("62 (0) 812", "62812"),
        ("tel:+62-812", "62812"),
        ("\u0660\u0668\u0661\u0662", "62812"),
        ("+5215512345678", "525512345678"),
        ("5581 8765-4321", "5581987654321"),
        ("0812abc@example.com", "0812abc@example.com"),
        ("0812", "0812"),
    ],
)
def test_an_address_is_searched_in_the_form_of_the_log(typed: str, found: str) -> None:
    """Mailboxes match in any case and with a plus that became a space, numbers in any usual notation."""
    assert found in read_message_filter({"recipient": typed}, "ID").recipient


@pytest.mark.parametrize(("region", "typed", "found"), [("US", "(212) 555", "1212555"), ("RU", "8 912", "7912")])
def test_a_number_is_of_the_region(region: str, typed: str, found: str) -> None:
    """The region gives the country code and the trunk prefix."""
    assert found in read_message_filter({"recipient": typed}, region).recipient


@given(st.text(max_size=50), st.sampled_from(["ID", "US", "XX"]))
def test_any_text_may_be_searched(text: str, region: str) -> None:
    """Text that cannot be an address raises no error and leads to few index searches."""
    assert len(read_message_filter({"recipient": text}, region).recipient) <= 6


def test_a_status_of_http_is_a_number() -> None:
    """Any other text is refused."""
    assert read_api_filter({"status": "404", "method": "post"}).method == "POST"
    with pytest.raises(InvalidQueryError, match="status"):
        read_api_filter({"status": "4xx"})
