"""Deliveries: what the provider really took, as the sandbox wrote it down before it answered."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Delivery:
    """One accepted message; `at` is the sandbox's clock in seconds since the epoch."""

    channel: str
    address: str
    job_id: str
    message_id: str
    at: float


class Deliveries:
    """Reads the sandbox's file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[Delivery]:
        """Return everything taken so far, in order; a line half written is not one yet."""
        if not self._path.exists():
            return []
        whole = self._path.read_bytes().rpartition(b"\n")[0]
        return [_delivery(orjson.loads(line)) for line in whole.splitlines()]

    def by_job(self) -> dict[str, list[Delivery]]:
        """Return what was taken, by job."""
        found: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in self.all():
            found[delivery.job_id].append(delivery)
        return found

    def count(self) -> int:
        """Return how many messages were taken so far."""
        return self._path.read_bytes().count(b"\n") if self._path.exists() else 0


def _delivery(line: dict[str, Any]) -> Delivery:
    return Delivery(line["channel"], line["to"], line["jobId"], line["messageId"], line["at_ms"] / 1000)
