"""What Kurir uses of aiohttp and aiosmtplib beyond their documented interfaces: each name is listed here.

A new version of a library may change these without notice. Then these tests fail and name the file to look at.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import ssl
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_writer import StreamWriter
from aiohttp.web_urldispatcher import MatchInfoError
from aiosmtplib import SMTPResponse, SMTPResponseException
from aiosmtplib.protocol import SMTPProtocol
from yarl import URL

from shared.http_sending.connector import StartingConnector

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = {"aiohttp", "aiosmtplib"}
# documented modules: https://docs.aiohttp.org/en/stable/, https://aiosmtplib.readthedocs.io/en/stable/
DOCUMENTED = {"aiohttp", "aiohttp.abc", "aiohttp.web", "aiosmtplib"}

# names from modules that the libraries do not document
NAMES = {
    ("services.email_sender.login", "aiosmtplib.auth"): {
        "auth_crammd5_verify",
        "auth_login_encode",
        "auth_plain_encode",
    },
    ("services.email_sender.protocol", "aiosmtplib.protocol"): {"SMTPProtocol"},
    ("services.ingest.blasts.multipart", "aiohttp.http_exceptions"): {"BadHttpMessage"},
    ("services.ingest.http.app", "aiohttp.web_urldispatcher"): {"AbstractRoute", "MatchInfoError", "UrlDispatcher"},
    ("services.ingest.http.bodies", "aiohttp.http_exceptions"): {"TransferEncodingError"},
    ("services.ingest.http.middleware", "aiohttp.typedefs"): {"Handler", "Middleware"},
    ("shared.http_sending.answers", "aiohttp.http_exceptions"): {"HttpProcessingError"},
    ("shared.http_sending.connector", "aiohttp.client_proto"): {"ResponseHandler"},
    ("shared.http_sending.connector", "aiohttp.client_reqrep"): {"ConnectionKey"},
    ("shared.http_sending.connector", "aiohttp.connector"): {"Connection"},
    ("shared.http_sending.connector", "aiohttp.tracing"): {"Trace"},
    ("shared.http_sending.protocol", "aiohttp.client_proto"): {"ResponseHandler"},
    ("shared.http_sending.protocol", "aiohttp.http_exceptions"): {"HttpProcessingError"},
    ("shared.http_sending.protocol", "aiohttp.http_parser"): {"RawResponseMessage"},
    ("shared.web", "aiohttp.typedefs"): {"Middleware"},
}

# private members of the libraries' classes that our subclasses use
MEMBERS = {
    ("services.email_sender.protocol", "ReplyQueueProtocol"): {"_drain_helper", "_loop"},
    ("services.ingest.http.app", "_Router"): set[str](),
    ("services.ingest.http.ready_answer", "_ReadyAnswer"): set[str](),
    ("services.webhook_sender.addresses", "Guard"): set[str](),
    ("shared.http_sending.connector", "StartingConnector"): {
        "_acquired",
        "_conns",
        "_create_connection",
        "_factory",
        "_release",
    },
    ("shared.http_sending.posting", "AnswerLostError"): set[str](),
    ("shared.http_sending.protocol", "BoundedHandler"): {"_loop", "_on_read_timeout", "_payload"},
    ("shared.web", "_Connection"): set[str](),
    ("shared.web", "_Runner"): {"_make_server"},
    ("shared.web", "_Server"): {"_loop"},
}

# parameters, in order, of methods that our subclasses replace or call
PARAMETERS = [
    (SMTPProtocol.write, ["self", "data"]),
    (SMTPProtocol.read_response, ["self", "timeout"]),
    (SMTPProtocol.start_tls, ["self", "tls_context", "server_hostname", "timeout"]),
    (aiohttp.TCPConnector.connect, ["self", "req", "traces", "timeout"]),
    (aiohttp.TCPConnector._create_connection, ["self", "req", "traces", "timeout"]),
    (aiohttp.TCPConnector._release, ["self", "key", "protocol", "should_close"]),
    (ResponseHandler.data_received, ["self", "data"]),
    (aiohttp.StreamReader._read_nowait, ["self", "n"]),
    (ResponseHandler.feed_data, ["self", "data", "size"]),
    (Connection.__init__, ["self", "connector", "key", "protocol", "loop"]),
    (web.RequestHandler.handle_error, ["self", "request", "status", "exc", "message"]),
    (web.UrlDispatcher.resolve, ["self", "request"]),
    (web.AppRunner._make_server, ["self"]),
    (web.StreamResponse.prepare, ["self", "request"]),
    (web.StreamResponse.write_eof, ["self", "data"]),
]


@cache
def _modules() -> dict[str, ast.Module]:
    """Return our modules that import one of the libraries, by name."""
    found = {}
    for path in sorted([*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]):
        text = path.read_text()
        if any(library in text for library in LIBRARIES):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = ast.parse(text)
    return found


def _undocumented() -> dict[tuple[str, str], set[str]]:
    """Return the names that our modules import from the libraries' undocumented modules."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, tree in _modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.module is None or node.module in DOCUMENTED:
                continue
            if node.module.partition(".")[0] in LIBRARIES:
                found.setdefault((name, node.module), set()).update(alias.name for alias in node.names)
    return found


def _subclasses() -> Iterator[tuple[str, ast.ClassDef, type]]:
    for name, tree in _modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.bases:
                ours = getattr(importlib.import_module(name), node.name)
                if any(map(_is_librarys, ours.__mro__)):
                    yield name, node, ours


def _is_librarys(one: type) -> bool:
    return one.__module__.partition(".")[0] in LIBRARIES


def _private_members(ours: type) -> set[str]:
    """Return the private members of a class's bases in the libraries: what they define and what they assign."""
    found: set[str] = set()
    for base in filter(_is_librarys, ours.__mro__):
        found.update(vars(base), re.findall(r"\bself\.(_\w+)", inspect.getsource(base)))
    return {name for name in found if name.startswith("_") and not name.endswith("__")}


def _mentioned(node: ast.ClassDef) -> set[str]:
    """Return the names of attributes that a class reads, assigns or defines."""
    attributes = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    return attributes | {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_name_from_an_undocumented_module_is_listed() -> None:
    """A further one is a choice that a reviewer sees here."""
    assert _undocumented() == NAMES


@pytest.mark.parametrize(("user", "module"), NAMES, ids=lambda one: one)
def test_undocumented_modules_have_the_names(user: str, module: str) -> None:
    """A name that has moved is reported with the module of ours that imports it."""
    library = module.partition(".")[0]
    found = importlib.import_module(module)
    missing = {name for name in NAMES[user, module] if not hasattr(found, name)}
    assert not missing, f"{library} {version(library)}: {module} has no {missing}, which {user} imports"


def test_private_members_that_our_subclasses_use_are_the_listed_ones() -> None:
    """If a library drops one, or takes a name that our subclass uses for itself, the class is named here."""
    for name, node, ours in _subclasses():
        assert (name, node.name) in MEMBERS, f"list the private members that {name}.{node.name} uses"
        used, listed = _mentioned(node) & _private_members(ours), MEMBERS[name, node.name]
        library = next(filter(_is_librarys, ours.__mro__)).__module__.partition(".")[0]
        where = f"{library} {version(library)}, {name}.{node.name}"
        assert not listed - used, f"{where}: the library has no {listed - used} any more, or we use it no longer"
        assert not used - listed, f"{where}: the library has {used - listed} too: list it, or rename ours"
    assert {(name, node.name) for name, node, _ in _subclasses()} == set(MEMBERS)


@pytest.mark.parametrize(("method", "parameters"), PARAMETERS, ids=lambda one: getattr(one, "__qualname__", ""))
def test_methods_that_we_replace_or_call_take_the_same_parameters(method: object, parameters: list[str]) -> None:
    """A parameter that is added, renamed or moved shows before a message fails by it."""
    assert callable(method)
    assert list(inspect.signature(method).parameters) == parameters


async def test_what_we_read_of_a_server_is_there() -> None:
    """A server's loop, a writer's count of bytes, a connection's state, and a router that can be replaced."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    assert isinstance(runner.server, web.Server)
    assert runner.server._loop is not None
    await runner.cleanup()
    assert AbstractStreamWriter.output_size == StreamWriter.output_size == 0
    assert callable(ResponseHandler.is_connected)
    assert isinstance(MatchInfoError(web.HTTPNotFound()), web.UrlMappingMatchInfo)


async def test_a_connector_keeps_connections_where_we_count_them() -> None:
    """Connections can be opened for nobody, and those that are idle and in use can be counted."""
    async with aiohttp.ClientSession(connector=StartingConnector(10.0)) as session:
        connector = session.connector
        assert isinstance(connector, StartingConnector)
        assert (connector._conns, connector._acquired) == ({}, set())
        loop = asyncio.get_running_loop()
        request = aiohttp.ClientRequest("POST", URL("https://example.com/a"), loop=loop)
        assert request.connection_key.host == "example.com"


class _Recorded(SMTPProtocol):
    """A protocol that records what aiosmtplib's own methods call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(f"write {data!r}")

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109 -- aiosmtplib's
        self.calls.append(f"read_response {timeout}")
        return SMTPResponse(454, "not now")


async def test_aiosmtplib_writes_and_reads_through_the_methods_that_we_replace() -> None:
    """Commands and STARTTLS use `write` and `read_response`, once each; `_drain_helper` waits for the transport."""
    protocol = _Recorded()
    protocol.connection_made(asyncio.Transport())
    await protocol.execute_command(b"NOOP", timeout=1.0)
    with pytest.raises(SMTPResponseException, match="not now"):
        await protocol.start_tls(ssl.create_default_context(), "localhost", 1.0)
    assert protocol.calls == [
        "write b'NOOP\\r\\n'",
        "read_response 1.0",
        "write b'STARTTLS\\r\\n'",
        "read_response 1.0",
    ]
    protocol.pause_writing()
    waiting = asyncio.ensure_future(protocol._drain_helper())
    await asyncio.sleep(0)
    assert not waiting.done()
    protocol.resume_writing()
    await waiting
