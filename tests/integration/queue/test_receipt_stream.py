"""G8: what is added to the stream of receipts is given to a consumer until its events are emitted, and counts once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.errors import QueueFullError, QueueUnavailableError
from shared.events import Receipts, unpack_batch
from shared.queue.connection import connect
from shared.queue.receipts import (
    READ_BYTES,
    TOKEN_VALID_S,
    Once,
    ReceiptEntry,
    ReceiptInbox,
    batch_name,
    most_receipt_bytes,
)
from shared.receipts import Receipt
from tests.servers import wait_for

READ = Receipt("read", "meta", 1.0, provider_id="wamid.1")
NOW_S = 1_795_900_000


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an empty server, once Valkey and once Redis."""
    client = connect(redis_url)
    yield client
    await client.config_set("maxmemory", 0)
    await client.aclose()


@pytest.fixture
def inbox(redis: Redis) -> ReceiptInbox:
    return ReceiptInbox(redis, "one")


def bodies(entries: list[ReceiptEntry]) -> list[bytes]:
    return [entry.body for entry in entries]


async def test_an_entry_comes_back_as_it_was_added(inbox: ReceiptInbox) -> None:
    """Whatever the bytes and however many; in the order in which they were added, each to one consumer."""
    added = [b"", b"\x00\xff\r\n", "ü📮".encode(), b"x" * 3_000_000]
    ids = [await inbox.add("meta" if number else "mail", body) for number, body in enumerate(added)]
    entries = await inbox.read(10)
    assert bodies(entries) == added
    assert [entry.entry_id for entry in entries] == ids
    assert [(entry.source, entry.deliveries) for entry in entries] == [("mail", 1), *[("meta", 1)] * 3]
    assert await inbox.read(10) == []


async def calls_of_scripts(redis: Redis) -> int:
    """Return how many scripts the server has run."""
    stats: Any = await redis.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("eval", "evalsha"))


async def test_what_comes_at_the_same_time_is_added_in_few_calls(redis: Redis, inbox: ReceiptInbox) -> None:
    """Each body is an entry of its own, whose id its caller gets, in the order in which they came."""
    await inbox.add("meta", b"first")
    before = await calls_of_scripts(redis)
    added = [b"%d" % number for number in range(100)]
    ids = await asyncio.gather(*(inbox.add("meta", body) for body in added))
    assert await calls_of_scripts(redis) - before <= 2
    entries = (await inbox.read(200))[1:]
    assert bodies(entries) == added
    assert [entry.entry_id for entry in entries] == ids


async def test_bodies_of_one_call_are_judged_one_by_one(redis: Redis) -> None:
    """One that does not fit is refused, one whose token was accepted is not added, and the others are."""
    await redis.config_set("maxmemory", 16_000_000)
    inbox, once = ReceiptInbox(redis, "one"), Once("token", NOW_S)
    await inbox.add("meta", b"waits")
    found = await asyncio.gather(
        inbox.add("mailgun", b"one", once),
        inbox.add("meta", b"x" * 2_000_000),
        inbox.add("mailgun", b"one", once),
        inbox.add("mailgun", b"y" * 2_000_000, Once("other", NOW_S)),
        inbox.add("mailgun", b"two", Once("third", NOW_S + 3600)),
        return_exceptions=True,
    )
    assert [type(one) for one in found] == [str, QueueFullError, str, QueueFullError, str]
    assert (found[0] != "", found[2], found[4] != "") == (True, "", True)
    assert bodies(await inbox.read(10)) == [b"waits", b"one", b"two"]
    await redis.delete("receipts")
    assert await inbox.add("mailgun", b"y", Once("other", NOW_S))
    assert await inbox.add("mailgun", b"two", Once("third", NOW_S + 3600)) == ""


async def test_what_is_emitted_at_once_is_one_call(redis: Redis, inbox: ReceiptInbox) -> None:
    """Every entry has its own batch, in the stream of the channel; one without receipts has none."""
    await asyncio.gather(*(inbox.add("meta", b"%d" % number) for number in range(40)))
    entries = await inbox.read(40)
    await inbox.emit("whatsapp", [(entries[0], [READ])])
    before = await calls_of_scripts(redis)
    await inbox.emit("whatsapp", [(entry, [READ] if number % 2 else []) for number, entry in enumerate(entries)])
    assert await calls_of_scripts(redis) - before == 1
    rows: Any = await redis.xrange("{whatsapp}:events")
    batches = [unpack_batch(fields[b"d"]) for _, fields in rows]
    assert [(one.producer, one.sequence) for one in batches] == [
        batch_name("whatsapp", entry.entry_id) for entry in (entries[0], *entries[1::2])
    ]


async def test_a_read_waits_for_an_entry(redis: Redis, inbox: ReceiptInbox) -> None:
    """It returns as soon as one is added, and empty-handed when the time is over."""
    assert await inbox.read(10, 0.01) == []
    waiting = asyncio.create_task(inbox.read(10, 4.0))
    other = ReceiptInbox(redis)
    await wait_for(lambda: redis.info("clients"), what="a blocked client")
    await other.add("ses", b"late")
    assert bodies(await waiting) == [b"late"]


async def test_a_read_survives_an_emptied_redis(redis: Redis, inbox: ReceiptInbox) -> None:
    """A consumer that waits while the stream is deleted gets nothing, or is told to try again, and then reads on."""
    for _ in range(2):
        waiting = asyncio.create_task(inbox.read(10, 4.0))
        await wait_for(lambda: _is_blocked(redis), what="a blocked client")
        await redis.flushall()
        (found,) = await asyncio.gather(waiting, return_exceptions=True)
        assert found == [] or isinstance(found, QueueUnavailableError)
    await ReceiptInbox(redis).add("ses", b"next")
    assert bodies(await inbox.read(10, 1.0)) == [b"next"]


async def _is_blocked(redis: Redis) -> bool:
    return int((await redis.info("clients"))["blocked_clients"]) > 0


async def test_a_read_takes_a_bounded_number_of_bytes(inbox: ReceiptInbox) -> None:
    """It ends once it has READ_BYTES, and takes at least one entry; so does a claim."""
    size = READ_BYTES // 2 + 1
    for _ in range(5):
        await inbox.add("meta", b"x" * size)
    assert [len(await inbox.read(10)) for _ in range(3)] == [2, 2, 1]
    assert len(await inbox.claim(10, 0.0)) == 2
    assert len(await inbox.read(1)) == 0


async def test_entries_of_the_dead_are_taken_and_counted(redis: Redis, inbox: ReceiptInbox) -> None:
    """Once idle, an entry goes to the consumer that claims it, with its number of deliveries; a done one does not."""
    for number in range(3):
        await inbox.add("meta", b"%d" % number)
    first, *_ = await ReceiptInbox(redis, "dead").read(10)
    assert await inbox.claim(10, 60.0) == []
    await inbox.done([first])
    await asyncio.sleep(0.02)
    assert [(entry.body, entry.deliveries) for entry in await inbox.claim(10, 0.01)] == [(b"1", 2), (b"2", 2)]
    await asyncio.sleep(0.02)
    again = await ReceiptInbox(redis, "two").claim(1, 0.01)
    assert [(entry.body, entry.deliveries) for entry in again] == [(b"1", 3)]
    await inbox.done(again)
    await inbox.done(again)
    assert (await inbox.counts()).waiting == 1


async def test_an_entry_deleted_by_hand_stops_nothing(redis: Redis, inbox: ReceiptInbox) -> None:
    """It is no longer pending after a claim, and the others are taken."""
    ids = [await inbox.add("meta", b"%d" % number) for number in range(3)]
    await inbox.read(10)
    await redis.xdel("receipts", ids[0])
    assert bodies(await inbox.claim(10, 0.0)) == [b"1", b"2"]
    assert await inbox.claim(0, 0.0) == []
    pending = await redis.xpending("receipts", "receipts")
    assert pending["pending"] == 2


async def test_all_receipts_of_an_entry_are_one_batch(redis: Any, inbox: ReceiptInbox) -> None:
    """They are cut into events of 500; emitted again, they have the same name, so the logger applies them once."""
    await inbox.add("meta", b"x")
    (entry,) = await inbox.read(10)
    for _ in range(2):
        await inbox.emit("whatsapp", [(entry, [READ] * 1201)])
    await inbox.emit("email", [(entry, [READ])])
    await inbox.emit("email", [(entry, [])])
    raw = [fields[b"d"] for _, fields in await redis.xrange("{whatsapp}:events")]
    assert len(raw) == 2
    assert raw[0] == raw[1]
    batch = unpack_batch(raw[0])
    assert [len(event.items) for event in batch.events if isinstance(event, Receipts)] == [500, 500, 201]
    assert {event.taken_at_ms for event in batch.events if isinstance(event, Receipts)} == {entry.taken_at_ms}
    (other,) = [unpack_batch(fields[b"d"]) for _, fields in await redis.xrange("{email}:events")]
    assert (other.producer, other.sequence) != (batch.producer, batch.sequence)


async def test_nothing_is_emitted_while_too_much_waits_for_the_logger(redis: Redis, inbox: ReceiptInbox) -> None:
    """The entry stays, and its events follow when the logger has caught up."""
    await redis.config_set("maxmemory", 16_000_000)
    await redis.xadd("{email}:events", {"d": b"x" * 4_100_000})
    await inbox.add("ses", b"x")
    (entry,) = await inbox.read(1)
    with pytest.raises(QueueFullError, match="wait for the logger"):
        await inbox.emit("email", [(entry, [READ])])
    assert (await inbox.counts()).waiting == 1
    await redis.delete("{email}:events")
    await inbox.emit("email", [(entry, [READ])])
    assert await redis.xlen("{email}:events") == 1


async def _fill(inbox: ReceiptInbox, body: bytes) -> None:
    """Add a body until it is refused."""
    for _ in range(20_000):
        await inbox.add("meta", body)


async def test_the_stream_is_bounded_by_bytes(redis: Redis) -> None:
    """It holds an eighth of Redis's memory, counted exactly for large bodies; then it is full until some is done."""
    await redis.config_set("maxmemory", 80_000_000)
    inbox = ReceiptInbox(redis, "one")
    with pytest.raises(QueueFullError, match="wait take 10,000,000 bytes"):
        await _fill(inbox, b"x" * 1_000_000)
    size = await redis.memory_usage("receipts") or 0
    assert 8_000_000 < size <= 10_000_000
    await inbox.done(await inbox.read(2))
    assert await inbox.add("meta", b"x" * 1_000_000)


async def test_the_stream_is_bounded_with_many_small_bodies(redis: Redis) -> None:
    """With thousands of entries their bytes are estimated, and the bound holds within a few per cent."""
    await redis.config_set("maxmemory", 16_000_000)
    inbox = ReceiptInbox(redis, "one")
    with pytest.raises(QueueFullError, match="wait take 2,000,000 bytes"):
        await _fill(inbox, b"a small body" * 20)
    assert await redis.xlen("receipts") > 2000
    assert 1_500_000 < (await redis.memory_usage("receipts", samples=0) or 0) < 2_300_000


async def test_one_body_always_fits(redis: Redis) -> None:
    """In a small Redis a body larger than the bound is taken when nothing else waits; otherwise it never would be."""
    await redis.config_set("maxmemory", 16_000_000)
    inbox = ReceiptInbox(redis, "one")
    assert await inbox.add("meta", b"x" * 3_000_000)
    with pytest.raises(QueueFullError):
        await inbox.add("meta", b"x")


async def test_a_full_redis_is_drained(redis: Redis) -> None:
    """What is full accepts nothing more; reading, claiming, setting aside and acknowledging still work."""
    inbox = ReceiptInbox(redis, "one")
    for _ in range(4):
        await inbox.add("meta", b"x" * 1000)
    await redis.config_set("maxmemory", 1)
    with pytest.raises(QueueFullError):
        await inbox.add("meta", b"x")
    with pytest.raises(QueueFullError):
        await ReceiptInbox(redis).add("meta", b"x")
    entries = await inbox.read(10)
    assert len(entries) == 4
    await inbox.claim(10, 0.0)
    await inbox.set_aside(entries[0], "unreadable")
    await inbox.emit("email", [(entries[1], [READ])])
    await inbox.done(entries[1:])
    await inbox.forget_readers(0.0)
    assert (await inbox.counts()).waiting == 0


async def test_receipts_are_taken_where_blasts_are_not(redis: Redis) -> None:
    """From 80 % of Redis's memory on blasts wait; receipts are taken up to 90 %."""
    used = int((await redis.info("memory"))["used_memory"])
    await redis.config_set("maxmemory", int(used / 0.85))
    assert await ReceiptInbox(redis).add("meta", b"x")
    await redis.config_set("maxmemory", int(used / 0.95))
    with pytest.raises(QueueFullError, match="more than 90% of its memory"):
        await ReceiptInbox(redis).add("meta", b"x")


async def test_what_cannot_be_read_is_kept_whole(inbox: ReceiptInbox) -> None:
    """It is moved in one step, once, with its source, its time and why."""
    await inbox.add("meta", b"\xff\x00unreadable")
    await inbox.add("mail", b"good")
    entry, good = await inbox.read(10)
    for _ in range(2):
        await inbox.set_aside(entry, "not JSON: ü")
    (kept,) = await inbox.list_set_aside(10)
    assert (kept.entry_id, kept.why, kept.source, kept.taken_at_ms, kept.body) == (
        entry.entry_id, "not JSON: ü", "meta", entry.taken_at_ms, b"\xff\x00unreadable",
    )  # fmt: skip
    await inbox.done([good])
    counts = await inbox.counts()
    assert (counts.waiting, counts.set_aside, counts.set_aside_ever) == (0, 1, 1)


async def test_what_is_kept_aside_is_bounded(redis: Redis, inbox: ReceiptInbox) -> None:
    """The newest stay, within a sixteenth of Redis's memory; all that ever were are counted."""
    await redis.config_set("maxmemory", 64_000_000)
    for number in range(30):
        await inbox.add("meta", b"%02d" % number + b"x" * 300_000)
        (entry,) = await inbox.read(1)
        await inbox.set_aside(entry, "unreadable")
    assert (await redis.memory_usage("{receipts}:set_aside", samples=0) or 0) <= most_receipt_bytes(64_000_000) // 2
    counts = await inbox.counts()
    assert counts.set_aside_ever == 30
    assert 8 < counts.set_aside < 14
    newest = await inbox.list_set_aside(2)
    assert [one.body[:2] for one in newest] == [b"29", b"28"]


async def test_counts_show_the_age_of_the_oldest(redis: Redis, inbox: ReceiptInbox) -> None:
    """Nothing waits at first; then the age is that of the first entry that is not done."""
    assert (await inbox.counts()).oldest_age_s == 0
    await redis.xadd("receipts", {"p": "meta", "t": "1", "d": b""}, id="1000-1")
    await inbox.add("meta", b"x")
    counts = await inbox.counts()
    assert counts.waiting == 2
    assert counts.oldest_age_s > 1_000_000


async def test_consumers_of_ended_processes_are_removed(redis: Redis, inbox: ReceiptInbox) -> None:
    """Those that hold an entry stay, so that it is claimed and not lost."""
    for name in ("idle", "holding"):
        await inbox.add("meta", b"x")
        entries = await ReceiptInbox(redis, name).read(1)
        if name == "idle":
            await inbox.done(entries)
    await inbox.forget_readers(60.0)
    assert len(await redis.xinfo_consumers("receipts", "receipts")) == 2
    await asyncio.sleep(0.02)
    await inbox.forget_readers(0.01)
    assert [one["name"] for one in await redis.xinfo_consumers("receipts", "receipts")] == [b"holding"]
    assert len(await inbox.claim(1, 0.0)) == 1


async def test_a_token_is_accepted_once(redis: Redis, inbox: ReceiptInbox) -> None:
    """Another body with it is not added; another token, time or source is another request; it is forgotten later."""
    once = Once("token", NOW_S)
    assert await inbox.add("mailgun", b"one", once)
    assert await inbox.add("mailgun", b"forged", once) == ""
    assert await inbox.add("mailgun", b"two", Once("token", NOW_S + 3600))
    assert await inbox.add("mailgun", b"three", Once("other", NOW_S))
    assert await inbox.add("another", b"four", once)
    assert bodies(await inbox.read(10)) == [b"one", b"two", b"three", b"four"]
    keys = [key async for key in redis.scan_iter("{receipts}:once:*")]
    assert len(keys) >= 2
    for key in keys:
        assert TOKEN_VALID_S < (await redis.ttl(key)) <= TOKEN_VALID_S + 7200


async def test_a_token_of_a_refused_request_is_not_used_up(redis: Redis) -> None:
    """What was refused because the stream was full comes again with the same token, and is then taken."""
    await redis.config_set("maxmemory", 16_000_000)
    inbox, once = ReceiptInbox(redis, "one"), Once("token", NOW_S)
    await inbox.add("meta", b"x" * 3_000_000)
    with pytest.raises(QueueFullError):
        await inbox.add("mailgun", b"x", once)
    await redis.delete("receipts")
    assert await inbox.add("mailgun", b"x", once)


async def test_tokens_take_little_memory(redis: Redis, inbox: ReceiptInbox) -> None:
    """A hundred thousand tokens of an hour take less than 30 bytes each, so a day of them fits."""
    await inbox.add("mailgun", b"x", Once("first", NOW_S))
    before = int((await redis.info("memory"))["used_memory"])
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(100_000):
            key, member = Once(f"token-{number:044}", NOW_S + number % 3600).place("mailgun")
            pipe.sadd(key, member)
        await pipe.execute()
    used = int((await redis.info("memory"))["used_memory"]) - before
    assert used / 100_000 < 30
