"""A token endpoint of OAuth 2.0 over real HTTP, whose responses a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from services.email_sender.oauth_settings import OAuthSettings
from tests.servers import free_port


@dataclass
class TokenEndpoint:
    """Grants `token-1`, `token-2`, … unless `answer` gives a response; `asked` are the forms that it received."""

    port: int = field(default_factory=free_port)
    expires_in: Any = 3600
    answer: Callable[[int], web.Response | None] | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    gate: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """The URL that it listens on."""
        return f"http://127.0.0.1:{self.port}/token"

    @property
    def newest(self) -> str:
        """The last granted token."""
        return f"token-{len(self.asked)}"

    def settings(self, **changes: str) -> OAuthSettings:
        """Return the settings of a client with a refresh token."""
        fields = {"client_id": "client", "client_secret": "hush", "refresh_token": "1//refresh", "scope": "mail"}
        return OAuthSettings(self.url, **fields | changes)

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append({name: str(value) for name, value in (await request.post()).items()})
        number = len(self.asked)
        if self.gate is not None:
            await self.gate.wait()
        decided = self.answer(number) if self.answer else None
        if decided is not None:
            return decided
        fields = {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": self.expires_in}
        return web.json_response({name: value for name, value in fields.items() if value is not None})


@asynccontextmanager
async def token_endpoint(**changes: Any) -> AsyncIterator[TokenEndpoint]:
    """Run an endpoint while the block runs."""
    endpoint = TokenEndpoint(**changes)
    app = web.Application()
    app.router.add_post("/token", endpoint.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", endpoint.port).start()
    try:
        yield endpoint
    finally:
        await runner.cleanup()
