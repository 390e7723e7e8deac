"""The machine: processor load and free memory, as Linux reports them (null on other systems)."""

from __future__ import annotations

import os
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_IDLE_FIELDS = (3, 4)  # idle and waiting for disks, of /proc/stat's first line
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True, slots=True)
class MachineSample:
    """One sample; `cpu_share` is the load of all processors since the previous sample, from 0 to 1."""

    cpu_share: float | None = None
    load_average: float | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    logger_cpu_seconds: float = 0.0
    logger_memory_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the sample with the API's field names."""
        return {_camel(name): value for name, value in asdict(self).items()}


class Machine:
    """Samples the machine's load; keeps the counters of the previous sample."""

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None

    def sample(self) -> MachineSample:
        """Return a sample; this is cheap and never fails."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        memory = _memory()
        return MachineSample(
            cpu_share=self._cpu_share(),
            load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            memory_total_bytes=memory.get("MemTotal"),
            memory_available_bytes=memory.get("MemAvailable"),
            logger_cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
            logger_memory_bytes=_resident(),
        )

    def _cpu_share(self) -> float | None:
        first_line = _read("/proc/stat").partition("\n")[0].split()[1:]
        ticks = [int(word) for word in first_line if word.isdigit()]
        if len(ticks) <= max(_IDLE_FIELDS):
            return None
        now = (sum(ticks), sum(ticks[field] for field in _IDLE_FIELDS))
        before, self._before = self._before, now
        if before is None or now[0] <= before[0]:
            return None
        return round(1 - (now[1] - before[1]) / (now[0] - before[0]), 3)


def _memory() -> dict[str, int]:
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1 and words[1].isdigit()}


def _resident() -> int:
    words = _read("/proc/self/statm").split()
    return int(words[1]) * _PAGE_BYTES if len(words) > 1 else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _camel(name: str) -> str:
    head, *others = name.split("_")
    return head + "".join(word.title() for word in others)
