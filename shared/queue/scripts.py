"""The Lua scripts: read from `lua/`, each with `lib.lua` behind its shebang line, and called by digest.

A restart or SCRIPT FLUSH forgets scripts, so a call that finds none sends the source again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from shared.queue.connection import translated

_FOLDER = Path(__file__).parent / "lua"

Argument = bytes | str | int


@dataclass(frozen=True, slots=True)
class Script:
    """A script's whole source and its SHA-1, by which the server knows it."""

    name: str
    source: str
    digest: str


@cache
def load_script(name: str) -> Script:
    """Read the script of that name and put the shared part behind its shebang line."""
    shebang, _, body = (_FOLDER / f"{name}.lua").read_text("utf-8").partition("\n")
    source = "\n".join((shebang, (_FOLDER / "lib.lua").read_text("utf-8"), body))
    digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, digest)


async def call_script(redis: Redis, name: str, tag: str, args: Sequence[Argument]) -> Any:
    """Run a script on the channel with this hash tag (`listen` and `written`: on the stream of that name).

    Raises QueueUnavailableError (its outcome is then unknown) and, for the scripts that add work,
    QueueFullError. The answer's shape is told in the script's header, hence `Any`.
    """
    script = load_script(name)
    client: Any = redis
    with translated(f"script {name}"):
        try:
            return await client.execute_command("EVALSHA", script.digest, 1, tag, *args)
        except NoScriptError:
            return await client.execute_command("EVAL", script.source, 1, tag, *args)
