"""The rules that every recipient of one blast is checked by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.templates import Template

MAX_ATTACHMENT_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rules:
    """What a blast asks of its recipients.

    `global_variables` are checked ones (`check_global_variables`). `attachment_bytes` is the size of the blast's own
    attachments: they and a recipient's may be 10 MB together.
    """

    template: Template
    channels: tuple[str, ...]
    global_variables: Mapping[str, Any] = field(default_factory=dict)
    region: str = "ID"
    permissive: bool = False
    attachment_bytes: int = 0
