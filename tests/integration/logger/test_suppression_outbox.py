"""The outbox of suppressions: each change reaches Redis in order, despite outages and repeated calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.logger.sqlite_store import SqliteStore
from services.logger.suppression_outbox import SuppressionOutbox
from services.logger.writing import EventWriter
from shared.errors import QueueUnavailableError
from shared.events import Receipts
from shared.queue.connection import connect
from shared.queue.suppressions import Stored, Suppressions
from shared.receipts import Receipt
from shared.suppressions import Suppression
from tests.servers import RedisServer
from tests.unit.logger.database import START_MS, entry, queued, queued_phones, receipt, sent, sent_phone

EMAIL, PHONE = "b:0:email", "w:0:whatsapp"
_NUMBERS = iter(range(1000, 1_000_000))


class Failing(Suppressions):
    """Suppressions whose answer is lost after the change was stored, as often as a test says."""

    lost = 0

    async def add_all(self, channel: str, every: list[tuple[str, Suppression]]) -> list[Stored]:  # type: ignore[override]  # a narrower sequence
        stored = await super().add_all(channel, every)
        if self.lost:
            self.lost -= 1
            raise QueueUnavailableError("the answer was lost")
        return stored


@pytest.fixture
async def redis(own_redis: RedisServer) -> AsyncIterator[Redis]:
    """Return a connection to an empty server."""
    client = connect(own_redis.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Return a store with a message sent by each channel."""
    opened = SqliteStore(tmp_path / "logs.db", readers=1)
    await opened.open()
    mail, phone = entry(1, queued(), sent()), entry(2, queued_phones(), sent_phone(), channel="whatsapp")
    await opened.write(lambda connection: EventWriter().apply(connection, [mail, phone]))
    yield opened
    await opened.close()


async def tell(store: SqliteStore, *items: Receipt, channel: str = "email") -> int:
    """Apply receipts and return how many changes they add to the outbox."""
    told = entry(next(_NUMBERS), Receipts(list(items)), producer="receipts", channel=channel)
    applied = await store.write(lambda connection: EventWriter().apply(connection, [told]))
    return applied.written.suppressions


async def waiting(store: SqliteStore) -> int:
    found = await store.read(
        lambda connection: connection.execute("SELECT count(*) FROM suppression_outbox").fetchone()
    )
    return int(found[0])


class Following(SqliteStore):
    """A store of a logger that lost the lead after it read the outbox, which it does not know at once."""

    leads_for = 1

    @property
    def leads(self) -> bool:
        """Whether it leads: as often as the test says."""
        self.leads_for -= 1
        return self.leads_for >= 0


async def test_a_logger_that_lost_the_lead_repeats_no_change(tmp_path: Path, redis: Redis) -> None:
    """Another one has applied it, and a later one of the same address, which the repetition would undo."""
    store = Following(tmp_path / "logs.db", readers=1)
    await store.open()
    phone = entry(2, queued_phones(), sent_phone(), channel="whatsapp")
    await store.write(lambda connection: EventWriter().apply(connection, [phone]))
    assert await tell(store, receipt("opted_out", 5, job_id=PHONE, source="meta"), channel="whatsapp") == 1
    store.leads_for = 0
    suppressions = Suppressions(redis)
    assert not await SuppressionOutbox(store, suppressions).drain()
    assert await waiting(store) == 1
    assert await suppressions.get("whatsapp", "6281200000000") == []
    store.leads_for = 1
    assert await SuppressionOutbox(store, suppressions).drain()
    assert len(await suppressions.get("whatsapp", "6281200000000")) == 1
    await store.close()


async def test_changes_reach_redis_and_leave_the_outbox(store: SqliteStore, redis: Redis) -> None:
    """The suppression names its job, the provider's words and the time of the bounce."""
    bounce = receipt("bounced", 5, job_id=EMAIL, severity="hard", code="5.1.1", words="no such user")
    assert await tell(store, bounce) == 1
    suppressions = Suppressions(redis)
    assert await SuppressionOutbox(store, suppressions).drain()
    found = Suppression("all", "bounce", "hard_bounce: 5.1.1", START_MS + 5000, 0, EMAIL, "no such user")
    assert await suppressions.get("email", "USER0@example.com") == [found]
    assert await waiting(store) == 0


async def test_a_lost_answer_is_repeated_without_effect(store: SqliteStore, redis: Redis) -> None:
    """The change stays in the outbox until its call was answered, and the second call finds it stored."""
    suppressions = Failing(redis)
    suppressions.lost = 1
    await tell(store, receipt("bounced", 5, job_id=EMAIL, severity="hard"))
    outbox = SuppressionOutbox(store, suppressions)
    assert not await outbox.drain()
    assert await waiting(store) == 1
    stored = await suppressions.get("email", "user0@example.com")
    assert await outbox.drain()
    assert await waiting(store) == 0
    assert await suppressions.get("email", "user0@example.com") == stored


async def test_redis_may_be_away(store: SqliteStore, redis: Redis) -> None:
    """Nothing is lost: the changes wait, and are stored in order once it is back."""
    await tell(store, receipt("complained", 5, job_id=EMAIL))
    gone = connect("redis://127.0.0.1:1/0")
    assert not await SuppressionOutbox(store, Suppressions(gone)).drain()
    await gone.aclose()
    assert await waiting(store) == 1
    assert await SuppressionOutbox(store, Suppressions(redis)).drain()
    assert [one.source for one in await Suppressions(redis).get("email", "user0@example.com")] == ["complaint"]


async def test_an_opt_in_lifts_an_opt_out_alone(store: SqliteStore, redis: Redis) -> None:
    """A bounce of the same address stays, and so does an opt-out that is later than the opt-in."""
    suppressions = Suppressions(redis)
    outbox = SuppressionOutbox(store, suppressions)
    bounce = Suppression("all", "bounce", "hard_bounce: 131026", START_MS)
    await suppressions.add("whatsapp", "6281200000000", bounce)
    await tell(store, receipt("opted_out", 10, address="6281200000000"), channel="whatsapp")
    await tell(store, receipt("opted_in", 20, address="6281200000000"), channel="whatsapp")
    assert await outbox.drain()
    assert await suppressions.get("whatsapp", "6281200000000") == [bounce]
    refused = Suppression("marketing", "opt_out", "opted_out: 131050", START_MS + 40_000)
    await suppressions.add("whatsapp", "6281200000000", refused)
    await tell(store, receipt("opted_in", 30, address="6281200000000"), channel="whatsapp")
    assert await outbox.drain()
    assert await suppressions.get("whatsapp", "6281200000000") == [bounce, refused]


async def test_an_unsubscribe_outlives_an_opt_in(store: SqliteStore, redis: Redis) -> None:
    """Only what a provider reported is lifted by a provider's report, not what a person asked us for."""
    suppressions = Suppressions(redis)
    unsubscribed = Suppression("marketing", "unsubscribe", "unsubscribed", START_MS)
    await suppressions.add("whatsapp", "6281200000000", unsubscribed)
    assert await tell(store, receipt("opted_in", 30, job_id=PHONE), channel="whatsapp") == 1
    assert await SuppressionOutbox(store, suppressions).drain()
    assert await suppressions.get("whatsapp", "6281200000000") == [unsubscribed]


async def test_hundreds_of_changes_are_stored_in_a_few_calls(store: SqliteStore, redis: Redis) -> None:
    """A call has at most two hundred, since each blocks Redis."""
    many = range(1, 501)
    await store.write(
        lambda connection: EventWriter().apply(connection, [entry(7, queued(many), *(sent(index) for index in many))])
    )
    bounces = [receipt("bounced", 5, job_id=f"b:{index}:email", severity="hard") for index in many]
    assert await tell(store, *bounces) == 500
    suppressions = Suppressions(redis)
    assert await SuppressionOutbox(store, suppressions).drain()
    assert await waiting(store) == 0
    found = [len(block) async for block in suppressions.every("email")]
    assert sum(found) == 500
