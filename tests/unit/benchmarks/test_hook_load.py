"""The load of the benchmark of hooks: what it sends is genuine, and its numbers are those that the log must show."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.hook_load import SECRET, Wanted, make_hooks
from services.ingest.hooks.signatures import Delivery, check_meta
from services.receipts.providers import READERS


@pytest.mark.parametrize(("batch", "seconds"), [(10, 6.0), (7, 5.0), (1, 4.5)])
def test_every_message_is_reported_once_as_each_kind(batch: int, seconds: float) -> None:
    """Whatever the batches: signed, readable, and as many receipts and read messages as the benchmark expects."""
    wanted = Wanted(messages=0, statuses=60, batch=batch, seconds=seconds)
    found: Counter[tuple[str, str]] = Counter()
    ignored = 0
    for request in make_hooks(wanted).requests:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
        check_meta(SECRET, Delivery(lines, body, 0.0))
        reading = READERS["meta"](body, 0.0)
        assert reading.problem == ""
        ignored += reading.ignored
        found.update((one.job_id, one.kind) for one in reading.receipts)
    assert set(found.values()) == {1}
    assert len(found) == wanted.receipts
    assert ignored == wanted.reported
    assert sum(kind == "read" for _, kind in found) == wanted.read
    assert {job_id.partition(":")[0] for job_id, _ in found} == {"bench"}
