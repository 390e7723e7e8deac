"""Leases for the unit tests of the sending loop."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.jobs import Job, Recipient
from shared.queue.leases import Lease


def lease_of(index: int = 0, *, deliveries: int = 1, stream: str = "{email}:jobs:normal", **changes: Any) -> Lease:
    """Return a lease of job `index`; `changes` are fields of the job."""
    job = Job("b", index, "email", "normal", Recipient(f"r{index}@example.com", f"R{index}"), 0)
    return Lease(stream, f"{index}-0", deliveries, msgspec.structs.replace(job, **changes))
