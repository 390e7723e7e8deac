"""The templates from files and from the API, the same for every ingest process.

Redis holds the current version of each in `template:<id>`, and their ids in `templates`; on a cluster in
`{templates}:<id>` and `{templates}`, so that one script changes both. A file is imported as the next
version when it is new or has changed since its last import; until then, changes and deletions through the API remain.
If Redis lost everything, the next lookup imports the files again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from redis.asyncio import Redis

from shared.numbers import packed_number
from shared.queue.client import QueueRedis
from shared.queue.connection import translated
from shared.queue.scripts import Script
from shared.templates import Template

_PUT = Script(
    "template_put",
    """#!lua
-- KEYS 1 the template · 2 the set of ids
-- ARGV 1 id · 2 content · 3 digest of its file, "" from the API · 4 "1": only if the template does not exist
-- Result the version, 0 if nothing was changed
local kept = redis.call('HMGET', KEYS[1], 'version', 'file', 'content')
if ARGV[3] ~= '' and kept[2] == ARGV[3] then return 0 end
if ARGV[4] == '1' and kept[3] then return 0 end
local version = tonumber(kept[1] or 0) + 1
redis.call('HSET', KEYS[1], 'content', ARGV[2], 'version', version)
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'file', ARGV[3]) end
redis.call('SADD', KEYS[2], ARGV[1])
return version
""",
)
_DELETE = Script(
    "template_delete",
    """#!lua flags=allow-oom
-- KEYS 1 the template · 2 the set of ids · ARGV 1 id · Result 1 if it existed; its version is kept
redis.call('SREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], 'content')
""",
)
_encoder = msgspec.msgpack.Encoder(enc_hook=packed_number)
_decoder = msgspec.msgpack.Decoder(Template)


class TemplateStore:
    """The current version of each template."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        clustered = isinstance(redis, QueueRedis) and redis.clustered
        self._ids, self._prefix = ("{templates}", "{templates}:") if clustered else ("templates", "template:")

    def _key(self, template_id: str) -> str:
        return self._prefix + template_id

    async def load(self, template_id: str) -> tuple[bool, Template | None]:
        """Return whether the id was ever used, and the template, None if it does not exist (any more)."""
        client: Any = self._redis
        with translated("load template"):
            # each single message reads one, and the driver's own method costs as much again
            row = await client.execute_command("HMGET", self._key(template_id), "version", "content")
        return row[0] is not None, _template(*row)

    async def every(self) -> list[Template]:
        """Return every template, in the order of their ids."""
        with translated("load templates"):
            ids: Any = await self._redis.smembers(self._ids)
            async with self._redis.pipeline(transaction=False) as pipe:
                for template_id in sorted(ids):
                    pipe.hmget(self._key(template_id.decode()), ["version", "content"])
                rows = await pipe.execute()
        return [template for row in rows if (template := _template(*row)) is not None]

    async def put(self, template: Template, *, digest: str = "", create: bool = False) -> int:
        """Store a template and return its version; 0 where its file was already imported, or `create` finds it.

        A repetition after a lost answer adds one version more, which does no harm.
        """
        content = _encoder.encode(template)
        args = (template.id, content, digest, "1" if create else "0")
        return int(await _PUT.call(self._redis, (self._key(template.id), self._ids), args))

    async def delete(self, template_id: str) -> bool:
        """Delete a template; return False if it did not exist."""
        return bool(await _DELETE.call(self._redis, (self._key(template_id), self._ids), (template_id,)))


def _template(version: bytes | None, content: bytes | None) -> Template | None:
    return None if version is None or content is None else _decoded(version, content)


@lru_cache(32)
def _decoded(version: bytes, content: bytes) -> Template:
    """Return a template; the same one while it does not change, for single messages that use it one after another."""
    return msgspec.structs.replace(_decoder.decode(content), version=int(version))


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """A template from a file; its `digest` shows whether the file has changed since its import."""

    template: Template
    digest: str


class TemplateLibrary:
    """Finds, lists and changes templates; raises QueueUnavailableError while Redis is away."""

    def __init__(self, store: TemplateStore, files: Mapping[str, TemplateFile]) -> None:
        self._store = store
        self._files = files
        self._published = False

    async def find(self, template_id: str) -> Template | None:
        """Return the current version of a template, None if it does not exist."""
        await self._publish_files()
        known, template = await self._store.load(template_id)
        if known or template_id not in self._files:
            return template
        await self._publish(self._files[template_id])
        return (await self._store.load(template_id))[1]

    async def every(self) -> list[Template]:
        """Return every template, in the order of their ids."""
        await self._publish_files()
        for template_id in self._files:
            await self.find(template_id)
        return await self._store.every()

    async def create(self, template: Template) -> Template | None:
        """Store a new template; return None if its id exists. Versions continue from a deleted template's last."""
        await self._publish_files()
        version = await self._store.put(template, create=True)
        return msgspec.structs.replace(template, version=version) if version else None

    async def replace(self, template: Template) -> tuple[Template, bool]:
        """Store a template as its next version; also return whether it is new."""
        await self._publish_files()
        before = await self.find(template.id)
        version = await self._store.put(template)
        return msgspec.structs.replace(template, version=version), before is None

    async def delete(self, template_id: str) -> bool:
        """Delete a template; return False if it does not exist. Blasts that use it keep their snapshots."""
        await self._publish_files()
        return await self._store.delete(template_id)

    async def _publish_files(self) -> None:
        if self._published:
            return
        for file in self._files.values():
            await self._publish(file)
        self._published = True

    async def _publish(self, file: TemplateFile) -> None:
        await self._store.put(file.template, digest=file.digest)
