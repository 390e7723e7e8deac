"""The live state: which of two sources is believed about a blast, and what is forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from services.ingest.blasts import live
from services.ingest.blasts.live import LiveWatch
from services.ingest.http.event_feed import EventFeed
from services.ingest.http.gateway import Gateway
from shared.blast_view import BlastChannel, BlastView
from shared.clock import SystemClock


class World:
    """A gateway whose log and Redis say what the test sets: views by blast id."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logged: list[BlastView] = []
        self.in_redis: dict[str, BlastView] = {}
        self.feed = EventFeed("b00t")
        blasts = SimpleNamespace(load=self._load, progress=self._progress)
        parts = SimpleNamespace(
            feed=self.feed,
            clock=SystemClock(),
            queue=SimpleNamespace(blasts=blasts, control=SimpleNamespace(stats=self._stats)),
            records=SimpleNamespace(watch=SimpleNamespace(available=True)),
            logger=SimpleNamespace(call=self._call),
        )
        gateway: Any = parts
        self.watch = LiveWatch(gateway)
        monkeypatch.setattr(live, "view_of", self._view_of)

    async def read(self) -> list[Any]:
        """Read once, with the list of blasts; return the blasts that were published."""
        self.watch._turn = 0
        before = self.feed.last
        await self.watch.read()
        self.feed.refreshed(self.watch.snapshot)
        found = self.feed.after(before) or []
        return [_data(event.text) for event in found if b"event: blast" in event.text]

    async def _load(self, blast_id: str) -> Any:
        return self.in_redis.get(blast_id)

    async def _progress(self, _blast_id: str, blast: Any) -> Any:
        return blast

    async def _view_of(self, _gateway: Gateway, blast: Any, _progress: Any, _counted: Any) -> BlastView:
        found: BlastView = blast
        return found

    async def _stats(self) -> dict[str, Any]:
        return {}

    async def _call(self, _method: str, path: str) -> tuple[int, dict[str, Any]]:
        rows = [] if "state=" in path else [msgspec.to_builtins(one) for one in self.logged]
        return 200, {"blasts": rows}


def _data(text: bytes) -> Any:
    return msgspec.json.decode(text.partition(b"data: ")[2])


def view(blast_id: str = "b1", sent: int = 0, *, total: int = 10, created: int = 1, ended: bool = False) -> BlastView:
    counts = {"sent": sent, "queued": total - sent}
    return BlastView(
        blast_id=blast_id,
        state="completed" if ended else "running",
        template_id="otp",
        channels={"email": BlastChannel(total=total, enqueued=total, counts=counts)},
        total_messages=total,
        total_recipients=total,
        counts=counts,
        progress=sent / total,
        created_at=f"2026-01-31T12:00:{created:02d}.000Z",
        ended_at="2026-01-31T13:00:00.000Z" if ended else None,
    )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_redis_is_ahead_of_the_log(world: World) -> None:
    """A blast that the log has further back is shown as Redis has it, and published only when it changes."""
    world.logged, world.in_redis = [view(sent=2)], {"b1": view(sent=5)}
    assert [one["counts"]["sent"] for one in await world.read()] == [2, 5]
    assert await world.read() == []
    world.in_redis = {"b1": view(sent=7)}
    assert [one["counts"]["sent"] for one in await world.read()] == [7]


async def test_only_the_log_knows_receipts(world: World) -> None:
    """Deliveries of the log's row are added to the counts of Redis, also by a later reading."""
    row = view(sent=2)
    delivered = msgspec.structs.replace(row.channels["email"], delivery={"delivered": 1})
    world.logged = [msgspec.structs.replace(row, channels={"email": delivered}, delivery={"delivered": 1})]
    world.in_redis = {"b1": view(sent=5)}
    await world.read()
    world.in_redis = {"b1": view(sent=6)}
    (shown,) = await world.read()
    assert (shown["counts"]["sent"], shown["delivery"]) == (6, {"delivered": 1})


async def test_a_blast_whose_failures_are_sent_again_runs_again(world: World) -> None:
    """It had ended; the log says that it runs, and Redis how far it is."""
    world.logged, world.in_redis = [view(sent=10, ended=True)], {"b1": view(sent=10, ended=True)}
    await world.read()
    world.logged, world.in_redis = [view(sent=8)], {"b1": view(sent=8)}
    shown = await world.read()
    assert shown[-1]["state"] == "running"
    assert shown[-1]["counts"]["sent"] == 8


async def test_a_log_that_is_behind_does_not_reopen_a_blast(world: World) -> None:
    """Redis says that it has ended, so nothing is published."""
    world.logged, world.in_redis = [view(sent=3)], {"b1": view(sent=10, ended=True)}
    await world.read()
    world.logged = [view(sent=4)]
    assert await world.read() == []


async def test_old_blasts_are_forgotten(world: World) -> None:
    """Unfinished blasts stay; of the ended ones, the latest ten."""
    world.logged = [view(f"e{one}", 10, created=one, ended=True) for one in range(20)] + [view("u", created=0)]
    await world.read()
    state = _data(world.watch.snapshot())
    assert [one["blastId"] for one in state["blasts"]] == [f"e{one}" for one in range(19, 9, -1)] + ["u"]


async def test_nothing_old_is_believed_after_an_idle_time(world: World) -> None:
    """Without streams nothing was read, so the first reading starts over."""
    world.logged = [view("gone", 10, ended=True)]
    with world.feed.reading():
        await world.read()
    world.logged = [view("new")]
    with world.feed.reading():
        await world.watch.read()
        assert [one["blastId"] for one in _data(world.watch.snapshot())["blasts"]] == ["new"]
