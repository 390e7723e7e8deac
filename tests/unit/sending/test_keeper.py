"""A sender's housekeeping in one partition, whatever happens in the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.errors import QueueUnavailableError
from shared.sending.holdings import Holdings
from shared.sending.keeper import Keeper
from tests.integration.sending.running import SETTINGS


class OneRound:
    """A clock whose second sleep ends the task."""

    def __init__(self) -> None:
        self._slept = False

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, _seconds: float) -> None:
        if self._slept:
            raise asyncio.CancelledError
        self._slept = True


class Counted:
    """A reaper, and the consumer that it keeps: they count."""

    maxmemory = 0

    def __init__(self) -> None:
        self.checks = self.forgotten = 0

    async def reap_dead(self) -> list[Any]:
        self.checks += 1
        return []

    def forget(self) -> None:
        self.forgotten += 1

    def fit_events(self, _maxmemory: int) -> None:
        return


async def test_partition_that_is_away_does_not_delay_the_reaper_of_another() -> None:
    """A journal that cannot be applied everywhere yet is no reason to forget which senders were missing here."""
    counted: Any = Counted()
    keeper = Keeper(counted, counted, Holdings(), SETTINGS, dict)

    async def take_over() -> None:
        raise QueueUnavailableError("another partition is away")

    keeper.take_over = take_over
    with pytest.raises(asyncio.CancelledError):
        await keeper.run_checks(OneRound())  # type: ignore[arg-type]
    assert (counted.checks, counted.forgotten) == (1, 0)
