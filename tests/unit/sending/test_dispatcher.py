"""How many jobs a dispatcher begins with one call while a limit spaces their starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import pytest

from shared.clock import SystemClock
from shared.errors import StopChannelError
from shared.queue.consumer import BeginRequest, Consumer
from shared.queue.leases import Grant
from shared.sending.dispatcher import Dispatcher
from shared.sending.gates import Gates
from shared.sending.holdings import Holdings
from shared.sending.journal import Journal, Owner
from shared.sending.pace import Pace
from shared.sending.provider import Capacity
from shared.sending.settler import Settler
from tests.integration.sending.running import SETTINGS
from tests.unit.sending.leases import lease_of


@dataclass
class Granting:
    """A queue that grants every start, spaced by one kind of limit; it records how many each call asked for."""

    spaced: Literal["channel", "own"]
    asked: list[int] = field(default_factory=list)

    async def begin(
        self, requests: Sequence[BeginRequest], _now_ms: int, _in_flight: int, _late_ms: int
    ) -> list[Grant]:
        self.asked.append(len(requests))
        return [Grant("granted", spaced=self.spaced) for _ in requests]


async def never(_error: StopChannelError) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("spaced", "send_s", "free", "asked"),
    [("channel", 0.001, 1, 51), ("own", 0.001, 1, 1), ("channel", 0.011, 1, 1), ("channel", 0.011, 0, 0)],
    ids=["the channel's limit", "limits of the jobs", "slow sends", "slow sends, no free connection"],
)
async def test_jobs_are_begun_ahead_only_where_their_connection_is_free_in_time(
    spaced: Literal["channel", "own"], send_s: float, free: int, asked: int, tmp_path: Path
) -> None:
    """More than one for each free connection if sends are quick and starts have the order of the jobs.

    A limit of a job may grant it a later start than the jobs behind it: its connection sends nothing until then.
    """
    queue, settings = Granting(spaced), replace(SETTINGS, concurrency=5)
    holdings = Holdings(pace=Pace(send_s=send_s, settle_s=10 * send_s))
    holdings.journal = Journal(tmp_path, Owner("sender", "{email}"), 10)
    consumer = cast("Consumer", queue)
    capacity = Capacity(5, connections=5, lasting=5)
    gates = Gates(lambda: True, lambda: True, lambda _: capacity, never, lambda _: None)
    dispatcher = Dispatcher(consumer, holdings, Settler(consumer, holdings), settings, gates)
    for count in (1, 60):
        for index in range(count):
            holdings.buffer(lease_of(100 * count + index))
        await dispatcher._begin(SystemClock())
        while not holdings.ready.empty():
            await holdings.next_begun()
        capacity = Capacity(free, connections=5, lasting=5)
    holdings.journal.close(keep=False)
    assert queue.asked == [1, asked][: 1 + bool(asked)]


@pytest.mark.parametrize("announces", [True, False], ids=["announces", "does not announce"])
@pytest.mark.parametrize(
    ("on_uncertain", "pace", "window"),
    [
        ("resend", Pace(per_s=1_000.0, send_s=0.005), 55),
        ("resend", Pace(per_s=10_000.0, send_s=0.0005), 100),
        ("resend", Pace(per_s=1_000.0, send_s=0.6), 5),
        ("resend", Pace(per_s=10.0, send_s=0.4), 5),
        ("hold", Pace(per_s=1_000.0, send_s=0.005), 5),
    ],
    ids=["fast", "as fast as the window", "slow sends", "few sends", "what is uncertain is held"],
)
def test_a_fast_sender_with_a_journal_begins_ahead_on_every_channel(
    on_uncertain: str, pace: Pace, window: int, announces: bool, tmp_path: Path
) -> None:
    """The jobs of the next 50 ms, within the window; a channel that announces has two for each connection besides."""
    settings = replace(SETTINGS, concurrency=5, on_uncertain=on_uncertain)
    holdings = Holdings(pace=pace)
    holdings.journal = Journal(tmp_path, Owner("sender", "{email}"), 10)
    consumer = cast("Consumer", Granting("channel"))
    gates = Gates(lambda: True, lambda: True, lambda _: Capacity(), never, lambda _: None, announces=announces)
    dispatcher = Dispatcher(consumer, holdings, Settler(consumer, holdings), settings, gates)
    dispatcher._connections = 5
    least = 15 if announces and pace.send_s < 0.5 else 5
    assert dispatcher._window() == max(window, least)
    holdings.journal.complete = False
    assert dispatcher._window() == least
    holdings.journal.close(keep=False)
