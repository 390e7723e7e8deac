"""A webhook sender whose schedule of attempts is hurried, while the queue's own time constants stay as they are.

KURIR_TIME_SCALE multiplies both. At a fiftieth a lease would last 0.2 s, and a busy machine lets processes wait longer
than that: every lease lapses, nothing is begun, and what was in flight is sent again. `QUEUE_SCALE` is the queue's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from services.webhook_sender.main import compose_from
from services.webhook_sender.settings import read_settings
from shared.queue.timing import Timing
from shared.sender_service import SenderProcess, run_sender


def _compose(env: Mapping[str, str]) -> SenderProcess:
    settings = read_settings(env)
    timing = Timing.scaled(float(env["QUEUE_SCALE"]))
    return compose_from(replace(settings, sending=replace(settings.sending, timing=timing)))


if __name__ == "__main__":
    run_sender("webhook_sender", dict(os.environ), _compose)
