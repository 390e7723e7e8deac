"""Build hook: the wheel carries the templates and the example that the repository keeps at its top.

Only the real wheel: an editable install uses the repository itself, and copies beside it would go stale.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_BUNDLED = {
    "templates": "services/cli/bundled/templates",
    "examples/recipients.csv": "services/cli/bundled/recipients.csv",
}


class BundleHook(BuildHookInterface[BuilderConfig]):
    """Adds the bundled files to a standard wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them, unless this is an editable install."""
        if version == "standard":
            build_data["force_include"].update(_BUNDLED)
