"""Deliveries: the messages that the provider accepted, as the sandbox recorded them before it answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
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
    """Reads the sandbox's file, each line once; finds the job of a WhatsApp message by its phone number."""

    def __init__(self, path: Path, job_of_phone: Mapping[str, str]) -> None:
        self._path = path
        self._job_of_phone = job_of_phone
        self.nameless: list[Delivery] = []
        self._read_to = 0
        self._seen: list[Delivery] = []
        self._by_job: dict[str, list[Delivery]] = defaultdict(list)

    def all(self) -> list[Delivery]:
        """Return everything accepted so far, in order; ignore a line that is not written completely."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read_to)
                whole = file.read().rpartition(b"\n")[0]
            self._read_to += len(whole) + 1 if whole else 0
            for line in whole.splitlines():
                delivery = _delivery(orjson.loads(line))
                self._seen.append(delivery)
                if delivery.job_id:
                    self._by_job[delivery.job_id].append(delivery)
                else:
                    self.nameless.append(delivery)
        self._name()
        return self._seen

    def _name(self) -> None:
        """Find the jobs of phone numbers; a blast that has not been answered yet is found later."""
        left = []
        for delivery in self.nameless:
            job_id = self._job_of_phone.get(delivery.address)
            if job_id is None:
                left.append(delivery)
            else:
                self._by_job[job_id].append(delivery)
        self.nameless = left

    def by_job(self) -> dict[str, list[Delivery]]:
        """Return the accepted messages by job."""
        self.all()
        return self._by_job

    def count(self) -> int:
        """Return how many messages were accepted so far."""
        return len(self.all())

    def missing(self, jobs: Collection[str]) -> list[str]:
        """Return the jobs whose message has not been accepted yet."""
        taken = self.by_job()
        return [job for job in jobs if job not in taken]


def _delivery(line: dict[str, Any]) -> Delivery:
    return Delivery(line["channel"], line["to"], line["jobId"], line["messageId"], line["at_ms"] / 1000)
