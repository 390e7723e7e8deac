"""The library: the templates that may be sent, from files and from the API, the same for every ingest process.

Redis holds them. A file is taken over when it is new or has changed since it was last taken over, as the next
version; what the API changed or deleted in between stays as the API left it. A Redis that lost everything gets the
files again with the next look-up.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from services.ingest.storage.templates import TemplateStore
from services.ingest.templates.files import TemplateFile
from shared.templates import Template


class TemplateLibrary:
    """Finds, lists and changes templates; raises QueueUnavailableError while Redis is away."""

    def __init__(self, store: TemplateStore, files: Mapping[str, TemplateFile]) -> None:
        self._store = store
        self._files = files
        self._published = False

    async def find(self, template_id: str) -> Template | None:
        """Return the current version of a template, None if there is none."""
        await self._publish_files()
        known, template = await self._store.load(template_id)
        if known or template_id not in self._files:
            return template
        await self._publish(self._files[template_id])
        return (await self._store.load(template_id))[1]

    async def every(self) -> list[Template]:
        """Return every template, by id."""
        await self._publish_files()
        for template_id in self._files:
            await self.find(template_id)
        return await self._store.every()

    async def create(self, template: Template) -> Template | None:
        """Keep a new template; None if there is one with its id. Its version goes on where a deleted one ended."""
        await self._publish_files()
        version = await self._store.put(template, create=True)
        return msgspec.structs.replace(template, version=version) if version else None

    async def replace(self, template: Template) -> tuple[Template, bool]:
        """Keep a template as the next version; True if there was none before."""
        await self._publish_files()
        before = await self.find(template.id)
        version = await self._store.put(template)
        return msgspec.structs.replace(template, version=version), before is None

    async def delete(self, template_id: str) -> bool:
        """Delete a template; False if there is none. Blasts that use it keep their snapshots."""
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
