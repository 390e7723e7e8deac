"""The provider of the benchmark of WhatsApp: it accepts what Kurir posts, and counts it."""

from __future__ import annotations

import pytest

from benchmarks import http_sink, workload
from services.ingest.blasts.addresses import normal_phone
from services.whatsapp_sender.meta import Meta
from services.whatsapp_sender.replies import Answer, read_answer

_HEAD = f"POST {http_sink.MESSAGES_PATH} HTTP/1.1\r\nauthorization: Bearer {http_sink.TOKEN}"


@pytest.mark.parametrize(
    ("head", "accepted"),
    [
        (_HEAD, True),
        (_HEAD.replace(http_sink.TOKEN, "another"), False),
        (_HEAD.replace(http_sink.NUMBER_ID, "another"), False),
    ],
)
def test_only_a_request_to_the_number_with_the_token_is_accepted(head: str, accepted: bool) -> None:
    """So a side that posts to a wrong place sends nothing; an acceptance names a message, as Meta's does."""
    status, _, rest = http_sink.Received().take(head.encode(), b'{"to":"1"}').partition(b"\r\n")
    assert (status == b"HTTP/1.1 200 OK") == accepted
    if accepted:
        raw = rest.partition(b"\r\n\r\n")[2]
        assert f"Content-Length: {len(raw)}".encode() in rest
        assert read_answer(Answer(200, raw)).message_id.startswith("wamid.")


def test_a_second_message_to_a_recipient_is_noticed() -> None:
    """The requests are then more than the recipients."""
    received = http_sink.Received()
    for to in (b"1", b"2", b"2"):
        received.take(_HEAD.encode(), b'{"to":"%s"}' % to)
    assert received.counts() == {"requests": 3, "recipients": 2}


def test_the_sink_is_metas_api() -> None:
    """The path is where the driver of Meta posts to, and the recipients' numbers are valid."""
    driver = Meta(f"http://127.0.0.1/{http_sink.VERSION}", http_sink.NUMBER_ID, http_sink.TOKEN)
    assert driver.messages_url == f"http://127.0.0.1{http_sink.MESSAGES_PATH}"
    for index in (0, 999_999):
        phone = workload.recipient(index, "whatsapp")["phone"]
        assert normal_phone(phone, "ID") == phone.removeprefix("+")
