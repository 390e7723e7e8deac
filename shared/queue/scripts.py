"""Calls Lua scripts by digest, and sends the source again if the server no longer has the script.

Scripts are read from `lua/`, each with `lib.lua` after its shebang line, and with the parts from `lua/parts/` that its
header names (`-- PARTS files, suppressions`). A server forgets scripts with a restart or SCRIPT FLUSH.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from shared.queue.connection import translated

_FOLDER = Path(__file__).parent / "lua"
_PARTS = re.compile(r"^-- PARTS +(.+)$", re.MULTILINE)

Argument = bytes | str | int


@dataclass(frozen=True, slots=True)
class Script:
    """A script's whole source and its SHA-1, by which the server knows it."""

    name: str
    source: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)

    async def call(self, redis: Redis, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run the script on keys of one slot.

        Raises QueueUnavailableError (its outcome is then unknown) and, for the scripts that add work,
        QueueFullError. The answer's shape is the script's own, hence `Any`.
        """
        client: Any = redis
        with translated(f"script {self.name}"):
            try:
                return await client.execute_command("EVALSHA", self.digest, len(keys), *keys, *args)
            except NoScriptError:
                return await client.execute_command("EVAL", self.source, len(keys), *keys, *args)


@cache
def load_script(name: str) -> Script:
    """Read the queue's script of that name and insert the shared functions after its shebang line."""
    shebang, _, body = (_FOLDER / f"{name}.lua").read_text("utf-8").partition("\n")
    named = _PARTS.search(body)
    parts = named[1].split(", ") if named else []
    shared = [_FOLDER / "lib.lua", *(_FOLDER / "parts" / f"{part}.lua" for part in parts)]
    return Script(name, "\n".join((shebang, *(path.read_text("utf-8") for path in shared), body)))
