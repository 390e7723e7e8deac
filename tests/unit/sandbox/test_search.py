"""The search in the mailbox."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from services.sandbox.mailbox import Kept, Message
from services.sandbox.search import MOST_BODIES, Wanted, search

MAIL = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nVGFnaWhhbiBJTlYtMQ==\r\n"
CALL = b'{"template":{"components":[{"type":"body","parameters":[{"type":"text","text":"Pesanan 4711"}]}]}}'
MESSAGES = [
    Kept(2, 0, Message("whatsapp", "62812", "b:1:whatsapp", "wamid.x", "order_update", source=CALL)),
    Kept(1, 0, Message("email", "Siti@example.com", "b:0:email", "<m@x>", "GRÜSSE", "kurir@example.com", MAIL)),
]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Wanted(), [2, 1]),
        (Wanted(limit=1), [2]),
        (Wanted(before=2), [1]),
        (Wanted(channel="email"), [1]),
        (Wanted(job_id="b:1:whatsapp"), [2]),
        (Wanted(to="siti@"), [1]),
        (Wanted(q="grüße"), [1]),
        (Wanted(q="WAMID"), [2]),
        (Wanted(q="tagihan inv-1"), [1]),  # in base64
        (Wanted(q="pesanan 4711"), [2]),
        (Wanted(q="nothing"), []),
    ],
)
def test_what_is_found(wanted: Wanted, numbers: list[int]) -> None:
    """Fields and the text that a reader sees, in any case."""
    assert [kept.number for kept in search(MESSAGES, wanted)] == numbers


def test_a_search_ends() -> None:
    """Of the bodies only the newest are read, the fields of all."""
    mail = Message("email", "a@example.com", "", "", "", source=MAIL)

    def newest() -> Iterator[Kept]:
        for number in count(1):
            if number > 3 * MOST_BODIES:
                yield Kept(number, 0, Message("email", "tagihan@example.com", "", "", "", source=b""))
                return
            yield Kept(number, 0, mail)

    found = search(newest(), Wanted(q="tagihan", limit=100_000))
    assert len(found) == MOST_BODIES + 1
    assert found[-1].message.to == "tagihan@example.com"
