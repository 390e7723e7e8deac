"""What we use of aiohttp beyond its documentation; an upgrade that moves one of these fails here first, by name."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http_writer import StreamWriter
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_urldispatcher import MatchInfoError, UrlDispatcher
from yarl import URL

from services.whatsapp_sender.starting import StartingConnector

ROOT = Path(__file__).resolve().parents[3]
# overridden or called: where, the owner, the member, its parameters
OVERRIDDEN: list[tuple[str, Any, str, list[str]]] = [
    ("shared/web.py", web.AppRunner, "_make_server", []),
    ("shared/web.py", RequestHandler, "handle_error", ["request", "status", "exc", "message"]),
    ("services/ingest/http/app.py", UrlDispatcher, "resolve", ["request"]),
    ("services/whatsapp_sender/starting.py", aiohttp.TCPConnector, "connect", ["req", "traces", "timeout"]),
]
# the only modules that import from inside aiohttp, and from where
INSIDE = {
    "shared/web.py": {"aiohttp.typedefs", "aiohttp.web_protocol"},
    "services/ingest/http/app.py": {"aiohttp.web_urldispatcher"},
    "services/ingest/http/bodies.py": {"aiohttp.http_exceptions"},
    "services/ingest/http/middleware.py": {"aiohttp.typedefs"},
    "services/ingest/blasts/multipart.py": {"aiohttp.http_exceptions"},
    "services/whatsapp_sender/starting.py": {
        "aiohttp.client", "aiohttp.client_reqrep", "aiohttp.connector", "aiohttp.tracing",
    },
}  # fmt: skip


@pytest.mark.parametrize(("path", "owner", "name", "parameters"), OVERRIDDEN, ids=lambda value: str(value)[:40])
def test_overridden_methods_have_the_known_signatures(path: str, owner: Any, name: str, parameters: list[str]) -> None:
    """aiohttp calls these of our subclasses; a renamed one would silently no longer be called."""
    assert f"def {name}(" in (ROOT / path).read_text()
    found = inspect.signature(getattr(owner, name))
    assert list(found.parameters)[1:] == parameters


async def test_private_members_that_we_read_exist() -> None:
    """A server's loop, a writer's count of bytes, a connection's state, and a router that can be replaced."""
    application = web.Application()
    runner = web.AppRunner(application)
    await runner.setup()
    assert isinstance(runner.server, web.Server)
    assert runner.server._loop is not None
    await runner.cleanup()
    assert AbstractStreamWriter.output_size == StreamWriter.output_size == 0
    assert callable(ResponseHandler.is_connected)
    assert isinstance(MatchInfoError(web.HTTPNotFound()), web.UrlMappingMatchInfo)


async def test_the_connection_pool_has_the_known_structure() -> None:
    """Connections can be opened for nobody, and those that are idle and in use can be counted."""
    async with aiohttp.ClientSession(connector=StartingConnector()) as session:
        connector = session.connector
        assert isinstance(connector, StartingConnector)
        assert (connector._conns, connector._acquired) == ({}, set())
        assert list(inspect.signature(connector._create_connection).parameters) == ["req", "traces", "timeout"]
        assert list(inspect.signature(Connection.__init__).parameters)[1:] == ["connector", "key", "protocol", "loop"]
        assert ClientRequest("POST", URL("https://example.com/a")).connection_key.host == "example.com"


def test_no_other_module_imports_from_inside_aiohttp() -> None:
    """`aiohttp` and `aiohttp.web` are documented; what is imported from elsewhere in it is listed above."""
    found: dict[str, set[str]] = {}
    for path in [*ROOT.glob("services/**/*.py"), *ROOT.glob("shared/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiohttp."):
                found.setdefault(str(path.relative_to(ROOT)), set()).add(str(node.module))
    assert found == INSIDE
