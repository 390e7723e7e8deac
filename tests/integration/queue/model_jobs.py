"""The jobs and blasts of the plain model of the queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from shared.blasts import Blast
from shared.jobs import TERMINAL


@dataclass
class ModelJob:
    """A job in the model; `holder` is "" or "<sender> buf|tx"."""

    status: str = "queued"
    run: int = 1
    made: int = 0
    deferred: bool = False
    holder: str = ""
    stalls: int = 0
    expired: bool = False
    marked: bool = False

    def waits(self) -> None:
        self.holder = ""
        self.status = "retrying" if self.made or self.deferred else "queued"


@dataclass
class ModelBlast:
    blast: Blast
    jobs: dict[int, ModelJob] = field(default_factory=dict)
    paused: bool = False
    cancelled: bool = False
    limited: bool = False
    runs: int = 1

    @property
    def ended(self) -> bool:
        return all(job.status in TERMINAL for job in self.jobs.values())

    def counts(self) -> Counter[str]:
        return Counter(job.status for job in self.jobs.values())
