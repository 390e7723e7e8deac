"""The table of operations: every call that the API answers."""

from __future__ import annotations

from services.ingest.api import blasts, channels, logs, messages, suppressions
from services.ingest.call import Operation

OPERATIONS: tuple[Operation, ...] = (
    *blasts.OPERATIONS,
    *messages.OPERATIONS,
    *channels.OPERATIONS,
    *suppressions.OPERATIONS,
    *logs.OPERATIONS,
)
