"""Why a message was not sent, for people: rows of the log keep the provider's whole answer, a line shows its words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def reason_of(row: Mapping[str, Any]) -> str:
    """Return why a message was not sent, in the provider's words; of a JSON answer, the error's message alone."""
    words = str(row["error_message"] or row["status"])
    if not words.startswith("{"):
        return words
    try:
        error = json.loads(words).get("error")
    except ValueError:  # cut, or no JSON after all
        return words
    return str(error.get("message") or words) if isinstance(error, dict) else words
