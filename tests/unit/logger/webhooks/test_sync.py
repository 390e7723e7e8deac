"""The sync writes what changed and nothing else, and a deleted endpoint's rows outlive what Redis has of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from services.logger.sqlite_store import SqliteStore
from services.logger.webhooks.endpoints import DISABLED, Row, change, create, delete, disable, read_rows
from services.logger.webhooks.sync import EndpointSync
from shared.queue.webhook_queues import Pause, Progress, WebhookQueues
from shared.webhooks import Endpoint
from tests.unit.logger.database import START_MS
from tests.unit.logger.webhooks.endpoints import SEAL

DELIVERY = """
INSERT INTO webhook_deliveries (number, n, webhook_id, type, events, count, bytes, created_at_ms)
VALUES (?, 0, 'evt_x', 'message.sent', x'', 1, 1, 1)
"""


class Recorded:
    """Queues that note each call; `left` is how often a deleted partition still has keys."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.left = 0
        self.strangers: dict[int, str] = {}
        self.pauses_of: dict[int, Pause] = {}

    async def publish(self, endpoints: Sequence[Endpoint]) -> None:
        self.calls.append(("publish", *(one.number for one in endpoints)))

    async def published(self) -> dict[int, str]:
        return self.strangers

    async def progress(self, endpoints: Sequence[Endpoint]) -> list[Progress]:
        return [Progress(0, "0-0") for _ in endpoints]

    async def pauses(self, numbers: Sequence[int]) -> list[Pause]:
        return [self.pauses_of.get(number, Pause("", 0)) for number in numbers]

    async def pause(self, number: int, reason: str) -> None:
        self.calls.append(("pause", number, reason))

    async def resume(self, number: int) -> None:
        self.calls.append(("resume", number))

    async def delete(self, number: int) -> bool:
        self.calls.append(("delete", number))
        self.left -= 1
        return self.left < 0

    async def forget(self, endpoint_id: str) -> None:
        self.calls.append(("forget", endpoint_id))


class Synced:
    """A store and its sync with recorded queues."""

    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder / "logs.db", readers=1)
        self.queues = Recorded()
        self.followed: list[list[int]] = []
        self.woken = 0
        self.sync = EndpointSync(
            self.store, cast("WebhookQueues", self.queues), lambda numbers: self.followed.append([*numbers]), self._wake
        )

    def _wake(self) -> None:
        self.woken += 1

    async def add(self) -> Row:
        wanted = {"url": "https://example.com/hook", "events": ["*"]}
        row, _ = await self.store.write(lambda connection: create(connection, wanted, SEAL, START_MS))
        return row

    async def calls(self) -> list[tuple[Any, ...]]:
        """Write everything once; return the calls that change a queue."""
        self.queues.calls.clear()
        await self.sync.sync()
        return self.queues.calls


@pytest.fixture
async def synced(tmp_path: Path) -> AsyncIterator[Synced]:
    """Return a sync on an empty database."""
    made = Synced(tmp_path)
    await made.store.open()
    yield made
    await made.store.close()


async def test_a_change_is_written_once(synced: Synced) -> None:
    """An endpoint is published each time, and resumed only after a change; then the feeder is woken."""
    row = await synced.add()
    assert await synced.calls() == [("publish", row.number), ("resume", row.number)]
    assert (synced.woken, synced.followed[-1]) == (1, [row.number])
    assert await synced.calls() == [("publish", row.number)]
    assert synced.woken == 1


async def test_a_disabled_endpoint_is_paused_once_by_each_process(synced: Synced) -> None:
    """And resumed when it is enabled again; it is published as disabled meanwhile."""
    row = await synced.add()
    await synced.calls()
    await synced.store.write(lambda connection: disable(connection, row.number, "410 Gone", START_MS))
    assert await synced.calls() == [("publish", row.number), ("pause", row.number, DISABLED)]
    assert await synced.calls() == [("publish", row.number)]
    await synced.store.write(lambda connection: change(connection, row.endpoint_id, {"enabled": True}, START_MS))
    assert await synced.calls() == [("publish", row.number), ("resume", row.number)]


async def test_a_deleted_endpoint_stays_a_row_until_redis_has_nothing_of_it(synced: Synced) -> None:
    """It is neither published nor followed from the start; a call that was on its way may make keys again."""
    row, other = await synced.add(), await synced.add()
    await synced.calls()
    await synced.store.write(lambda connection: delete(connection, row.endpoint_id))
    synced.queues.left = 2
    for _ in range(2):
        assert await synced.calls() == [("publish", other.number), ("delete", row.number)]
        assert synced.followed[-1] == [other.number]
        assert len(await synced.store.read(read_rows)) == 2
    assert await synced.calls() == [("publish", other.number), ("delete", row.number), ("forget", row.endpoint_id)]
    assert [one.number for one in await synced.store.read(read_rows)] == [other.number]


async def test_a_number_that_another_database_used_is_not_used_again(synced: Synced) -> None:
    """What Redis has of it is deleted."""
    synced.queues.strangers = {1: "wh_1", 7: "wh_7"}
    assert ("delete", 7) in await synced.calls()
    assert (await synced.add()).number == 8


async def test_an_endpoint_does_not_keep_a_number_that_redis_has_for_another(synced: Synced) -> None:
    """What waits there under the number is not its own; it takes its deliveries along."""
    row = await synced.add()
    await synced.store.write(lambda connection: connection.execute(DELIVERY, (row.number,)).rowcount)
    synced.queues.strangers = {1: "wh_other", 2: row.endpoint_id}
    calls = await synced.calls()
    assert ("delete", 1) in calls
    assert ("publish", 3) in calls
    (moved,) = [one for one in await synced.store.read(read_rows) if one.endpoint_id == row.endpoint_id]
    assert moved._replace(number=row.number, unsynced=1) == row
    query = "SELECT number FROM webhook_deliveries"
    assert await synced.store.read(lambda connection: connection.execute(query).fetchall()) == [(3,)]


async def test_a_pause_that_a_sender_made_is_left_until_its_event_is_read(synced: Synced) -> None:
    """Then the endpoint is disabled; if it is not, the database does not know of the pause, and resumes."""
    row = await synced.add()
    await synced.calls()
    for pause in (Pause("410 Gone", 1), Pause("410 Gone", 1), Pause("", 0), Pause("410 Gone", 0)):
        synced.queues.pauses_of = {row.number: pause}
        assert await synced.calls() == [("publish", row.number)]
    assert await synced.calls() == [("publish", row.number), ("resume", row.number)]
    synced.queues.pauses_of = {row.number: Pause(DISABLED, 0)}
    assert await synced.calls() == [("publish", row.number), ("resume", row.number)]
