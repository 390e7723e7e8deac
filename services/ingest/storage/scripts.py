"""How ingest's own scripts are called: by digest, with the source sent again where the server has forgotten it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from shared.queue.connection import translated

Argument = bytes | str | int


class Script:
    """A Lua script with its SHA-1, by which the server knows it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def call(self, redis: Redis, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run it; raises QueueUnavailableError or QueueFullError. The answer's shape is the script's own."""
        with translated("ingest script"):
            try:
                return await redis.evalsha(self._digest, len(keys), *keys, *args)
            except NoScriptError:
                return await redis.eval(self._source, len(keys), *keys, *args)
