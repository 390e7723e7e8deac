"""An inbox for tests that can be away, full or slow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from services.receipts.mail.mime import Headers, split_header, with_line_feeds
from shared.errors import KurirError


@dataclass
class FakeInbox:
    """Keeps what is added; raises `failure` while it is set, and waits while `open` is not."""

    mails: list[bytes] = field(default_factory=list)
    failure: KurirError | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    tried: int = 0

    def __post_init__(self) -> None:
        self.open.set()

    async def add(self, source: str, body: bytes) -> str:
        """Add a mail, as the stream does."""
        assert source == "mail"
        self.tried += 1
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.mails.append(body)
        return f"{len(self.mails)}-0"


@dataclass
class Tally:
    """Counts mails by their way and result."""

    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, way: str, result: str) -> None:
        """Count one."""
        name = f"{way} {result}"
        self.counts[name] = self.counts.get(name, 0) + 1


def headers_of(raw: bytes) -> Headers:
    return Headers(split_header(with_line_feeds(raw))[0])
