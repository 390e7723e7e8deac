"""A text part is sent as it is if each of its lines fits, wherever in the text the long ones are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.email_sender.mime import LONGEST_LINE, text_part

BREAKS = st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\r\n\n"])
LINES = st.sampled_from([0, 1, 500, 996, 997, 998, 999, 1000, 1996, 1997, 3000]).map("x".__mul__)
TEXTS = st.lists(st.tuples(LINES, BREAKS), max_size=5)


@given(lines=TEXTS, end=LINES)
def test_only_a_text_with_a_line_beyond_998_bytes_is_encoded(lines: list[tuple[str, str]], end: str) -> None:
    """Every line break becomes CRLF, the last line gets one if it has none, and no line is counted with another."""
    text = "".join(line + ending for line, ending in lines) + end
    part = text_part(b"Content-Type: text/plain", text, eight_bit=False)
    unix = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    head, _, body = part.partition(b"\r\n\r\n")
    fits = all(len(line) <= LONGEST_LINE for line in unix.split("\n"))
    assert (b"7bit" in head) == fits
    if fits:
        assert body == unix.replace("\n", "\r\n").encode() + b"\r\n"
