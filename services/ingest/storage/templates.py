"""Templates in Redis: the current version of each in `template:<id>`, their ids in `templates`."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from services.ingest.storage.scripts import Script
from shared.numbers import packed_number
from shared.queue.connection import translated
from shared.templates import Template

_IDS = "templates"

_PUT = Script("""#!lua
-- KEYS 1 the template · 2 the set of ids
-- ARGV 1 id · 2 content · 3 digest of the file it comes from, "" from the API · 4 "1": only if there is none
-- Result the version, 0 where nothing was changed
local kept = redis.call('HMGET', KEYS[1], 'version', 'file', 'content')
if ARGV[3] ~= '' and kept[2] == ARGV[3] then return 0 end
if ARGV[4] == '1' and kept[3] then return 0 end
local version = tonumber(kept[1] or 0) + 1
redis.call('HSET', KEYS[1], 'content', ARGV[2], 'version', version)
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'file', ARGV[3]) end
redis.call('SADD', KEYS[2], ARGV[1])
return version
""")
_DELETE = Script("""#!lua flags=allow-oom
-- KEYS 1 the template · 2 the set of ids · ARGV 1 id · Result 1 if there was one; its version stays known
redis.call('SREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], 'content')
""")
_encoder = msgspec.msgpack.Encoder(enc_hook=packed_number)
_decoder = msgspec.msgpack.Decoder(Template)


def _key(template_id: str) -> str:
    return f"template:{template_id}"


class TemplateStore:
    """The current version of each template."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def load(self, template_id: str) -> tuple[bool, Template | None]:
        """Return whether the id was ever used, and the template, None if there is none (now)."""
        with translated("load template"):
            row: Any = await self._redis.hmget(_key(template_id), ["version", "content"])
        return row[0] is not None, _template(*row)

    async def every(self) -> list[Template]:
        """Return every template, by id."""
        with translated("load templates"):
            ids: Any = await self._redis.smembers(_IDS)
            async with self._redis.pipeline(transaction=False) as pipe:
                for template_id in sorted(ids):
                    pipe.hmget(_key(template_id.decode()), ["version", "content"])
                rows = await pipe.execute()
        return [template for row in rows if (template := _template(*row)) is not None]

    async def put(self, template: Template, *, digest: str = "", create: bool = False) -> int:
        """Keep a template and return its version; 0 where its file was taken over before, or where it exists.

        Repeated after a lost answer it counts one version more, which does no harm.
        """
        content = _encoder.encode(template)
        args = (template.id, content, digest, "1" if create else "0")
        return int(await _PUT.call(self._redis, (_key(template.id), _IDS), args))

    async def delete(self, template_id: str) -> bool:
        """Delete a template; False if there was none."""
        return bool(await _DELETE.call(self._redis, (_key(template_id), _IDS), (template_id,)))


def _template(version: bytes | None, content: bytes | None) -> Template | None:
    if version is None or content is None:
        return None
    return msgspec.structs.replace(_decoder.decode(content), version=int(version))
