"""Filters are read strictly, and say what is wrong; cursors come back as they were given."""

from __future__ import annotations

from collections.abc import Callable

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


def outcome(read: Callable[[], int | None]) -> int | str | None:
    """Return what was read, or the code of the refusal."""
    try:
        return read()
    except InvalidQueryError as error:
        return error.code


@given(st.integers(1, (1 << 63) - 1))
def test_a_cursor_comes_back_as_it_was_given(row_id: int) -> None:
    """Whatever the id."""
    assert read_page({"cursor": write_cursor(row_id)}).cursor == row_id


@given(st.text(min_size=1, max_size=40))
def test_no_text_breaks_the_reading_of_a_cursor(text: str) -> None:
    """It is a cursor, or INVALID_CURSOR."""
    found = outcome(lambda: read_page({"cursor": text}).cursor)
    assert found == "INVALID_CURSOR" or (isinstance(found, int) and 0 < found < 1 << 63)


@given(st.text(max_size=30))
def test_no_text_breaks_the_reading_of_a_time(text: str) -> None:
    """It is a time, or INVALID_QUERY."""
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
def test_times_are_read_as_clients_write_them(text: str, ms: int) -> None:
    """RFC 3339, also with a "+" that arrives as a space; UTC where nothing else is said."""
    assert read_span({"from": text}) == Span(ms, None)


def test_lists_are_separated_by_commas() -> None:
    """Spaces and repetitions do not matter; an unknown status is named."""
    assert read_message_filter({"status": "sent, failed,sent"}).statuses == ("sent", "failed")
    with pytest.raises(InvalidQueryError, match="'gone'"):
        read_message_filter({"status": "sent,gone"})


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [("+62812", "62812"), (" 62812", "62812"), ("Ana.B@Example.COM", "Ana.B@example.com"), ("ana", "ana")],
)
def test_an_address_is_looked_up_as_the_log_has_it(given_text: str, expected: str) -> None:
    """Numbers without their plus, domains in small letters; a local part's letters are its own."""
    assert read_message_filter({"recipient": given_text}).recipient == expected


def test_a_status_of_http_is_a_number() -> None:
    """Up to 999."""
    assert read_api_filter({"status": "404", "method": "post"}).method == "POST"
    with pytest.raises(InvalidQueryError, match="status"):
        read_api_filter({"status": "4xx"})
