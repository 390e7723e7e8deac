"""An accepted recipient, as it waits between its check and the queue."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.jobs import Attachment


class Accepted(msgspec.Struct, frozen=True, array_like=True):
    """A recipient that passed: `addresses` stand in the order of the blast's channels, "" where it has none."""

    index: int
    name: str
    addresses: list[str]
    variables: dict[str, Any] = {}
    reference: str = ""
    attachments: list[Attachment] = []
