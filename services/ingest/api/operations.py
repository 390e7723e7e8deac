"""The table of operations: every call that the API answers."""

from __future__ import annotations

from services.ingest.api import (
    blast_lists,
    blasts,
    channels,
    console,
    contents,
    events,
    hooks,
    logs,
    messages,
    previews,
    service,
    suppression_files,
    suppressions,
    templates,
    unsubscribe,
    webhooks,
)
from services.ingest.api.service import document_operations
from services.ingest.http.operation import Operation

_CALLS: tuple[Operation, ...] = (
    *previews.OPERATIONS,
    *messages.OPERATIONS,
    *contents.OPERATIONS,
    *blast_lists.OPERATIONS,
    *blasts.OPERATIONS,
    *templates.OPERATIONS,
    *channels.OPERATIONS,
    *suppression_files.OPERATIONS,
    *suppressions.OPERATIONS,
    *webhooks.OPERATIONS,
    *logs.OPERATIONS,
    *events.OPERATIONS,
    *unsubscribe.OPERATIONS,
    *hooks.OPERATIONS,
    *console.OPERATIONS,
    *service.OPERATIONS,
)

OPERATIONS: tuple[Operation, ...] = (*_CALLS, *document_operations(lambda: _CALLS))
