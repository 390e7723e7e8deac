"""A server that replies in Latin-1, GBK or Shift-JIS, at every stage: the codes decide."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from shared.errors import SendError
from shared.events import Ended, pack_event
from shared.jobs import Recipient
from shared.queue.producer import Chunk
from tests.integration.email_sender.mails import make_mail, smtp_settings
from tests.integration.email_sender.peer import USUAL, foreign, peer
from tests.integration.email_sender.running import opened, sending_mail
from tests.integration.queue.world import World
from tests.servers import wait_for

WORDS = {"latin-1": "für Empfänger", "gbk": "请使用授权码", "shift_jis": "ユーザー不明", "utf-8": "später 请 ユ"}
# stage, the code and enhanced code that the server sends there once, the outcome class of the first message
REFUSALS = [
    ("CONNECT", "421 4.3.2", "unavailable"),
    ("CONNECT", "554 5.3.2", "unavailable"),
    ("EHLO", "421 4.3.2", "unavailable"),
    ("AUTH", "454 4.7.0", "unavailable"),
    ("AUTH", "535 5.7.8", "stop"),
    ("MAIL", "452 4.3.1", "deferred"),
    ("MAIL", "550 5.1.8", "permanent"),
    ("RCPT", "450 4.2.1", "transient"),
    ("RCPT", "550 5.1.1", "permanent"),
    ("DATA", "451 4.3.0", "transient"),
    ("DATA", "554 5.6.0", "permanent"),
    (".", "451 4.3.0", "transient"),
    (".", "550 5.6.0", "permanent"),
]
ACCEPTANCES = [
    ("CONNECT", "220"), ("AUTH", "235 2.7.0"), ("MAIL", "250 2.1.0"), ("RCPT", "250 2.1.5"), ("DATA", "354"),
    (".", "250 2.0.0"), ("RSET", "250 2.0.0"), ("RSET", "451 4.3.0"), ("RSET", "550 5.0.0"), ("QUIT", "221 2.0.0"),
]  # fmt: skip


@pytest.mark.parametrize("charset", WORDS)
@pytest.mark.parametrize(("stage", "codes", "error_class"), REFUSALS)
async def test_refusal_is_what_its_codes_say(charset: str, stage: str, codes: str, error_class: str) -> None:
    """The words stay legible; the next message is sent, and the first was not."""
    script = {stage: [foreign(f"{codes} {WORDS[charset]}", charset)]}
    async with peer(script, [*USUAL, "AUTH PLAIN"]) as server:
        url = server.url.replace("//", "//some:word@") + "?tls=off&concurrency=1"
        async with opened(smtp_settings(url)) as channel:
            with pytest.raises(SendError) as refused:
                await channel.send(make_mail("one@example.com"))
            await channel.send(make_mail("two@example.com"))
        taken = Counter(b"<two@example.com>" in message for message in server.messages if message)
    assert refused.value.reply == f"{codes} {WORDS[charset]}"
    assert refused.value.error_class in {error_class, "deferred" if error_class == "transient" else error_class}
    assert taken[True] == 1
    assert taken[False] == (1 if stage == "." else 0)


@pytest.mark.parametrize("charset", WORDS)
@pytest.mark.parametrize(("stage", "codes"), ACCEPTANCES)
async def test_yes_is_a_yes(charset: str, stage: str, codes: str) -> None:
    """Each message is accepted once, whatever the stage, words and charset of the reply."""
    answer = foreign(f"{codes} {WORDS[charset]}", charset)
    script = {stage: [answer] * 9}
    if stage == "RSET":
        script["RCPT"] = ["550 5.1.1 gone"]
    async with peer(script, [*USUAL, "AUTH PLAIN"]) as server:
        url = server.url.replace("//", "//some:word@") + "?tls=off&concurrency=1"
        async with opened(smtp_settings(url)) as channel:
            if stage == "RSET":
                with pytest.raises(SendError):
                    await channel.send(make_mail("one@example.com"))
            receipts = [await channel.send(make_mail(f"r{number}@example.com")) for number in range(3)]
            status = await channel.status()
        assert len([message for message in server.messages if message]) == 3
    if stage == ".":
        assert {receipt.response for receipt in receipts} == {f"{codes} {WORDS[charset]}"}
    look: Any = status.detail["servers"]
    assert json.dumps(look, ensure_ascii=False).encode()
    if stage == "CONNECT":
        assert look[0]["greeting"] == WORDS[charset]


@pytest.mark.parametrize(
    ("stage", "answer"),
    [
        ("CONNECT", "220-\r\n220-mail\r\n\r\n220 ready"),
        ("CONNECT", "220"),
        ("EHLO", "250-mail\r\n\r\n250-PIPELINING\r\n250"),
        ("EHLO", "250-\r\n250-  pipelining  \r\n250-size   1000000\r\n250 "),
        ("EHLO", "250-mail\n250-PIPELINING\n250 8BITMIME"),
        ("EHLO", "550 not here"),
        ("EHLO", "250"),
        ("MAIL", "250"),
        ("MAIL", "250-\r\n250"),
        ("RCPT", "252 cannot verify"),
        ("RCPT", "250-mixed\r\n251 codes"),
        ("DATA", "354"),
        (".", "250"),
        (".", "200 fine"),
        (".", "250 " + "x" * 60_000),
        (".", "250-queued\r\nas 12345\r\n250"),
        (".", "250 ok\r\n250 and something else"),
    ],
)
async def test_odd_answers_are_lived_with(stage: str, answer: str) -> None:
    """With odd replies, such as blank lines, other codes of the class or an extra reply, each message is sent once."""
    async with peer({stage: [answer] * 99}) as server:
        async with opened(smtp_settings(f"{server.url}?concurrency=1")) as channel:
            for number in range(3):
                await channel.send(make_mail(f"r{number}@example.com"))
        assert len(server.messages) == 3


async def test_one_foreign_refusal_among_many(world: World) -> None:
    """Of 21 recipients one is refused in Latin-1: 20 are sent once each, one fails with the words, none is stuck."""
    blast = await world.blast(21)
    jobs = [
        world.jobs(blast, [index], recipient=Recipient(f"r{index}@example.com", f"R{index}"))[0] for index in range(21)
    ]
    await world.producer.enqueue(Chunk(blast, "email", 0, jobs))
    no = foreign("550 5.1.1 Empfänger unbekannt", "latin-1")
    yes = foreign("250 2.0.0 angenommen für Siti", "latin-1")
    script = {"RCPT": lambda line: no if "<r7@" in line else "250 ok", ".": lambda _line: yes}
    async with peer(script) as server, sending_mail(world, smtp_settings(server.url)):

        async def has_ended() -> bool:
            return (await world.progress(blast)).ended_at_ms > 0

        await wait_for(has_ended)
        whole = [message for message in server.messages if message]
    counts = (await world.progress(blast)).counts
    assert (counts["sent"], counts["failed"], len(whole)) == (20, 1, 20)
    (ended,) = [event for event in await world.written() if isinstance(event, Ended)]
    assert (ended.message, ended.error_class) == ("550 5.1.1 Empfänger unbekannt", "permanent")
    assert pack_event(ended)
    await world.check_balance()
