"""Endpoints that cannot be reached or trusted, connections that are lost, and the words for all of these."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from pathlib import Path

import pytest
import trustme

from services.webhook_sender.connector import tls_context
from shared.errors import ServerFailedError, UnavailableError
from shared.sending.breaker import BreakerPolicy
from tests.integration.webhook_sender.endpoints import (
    DELIVERY,
    failure_at,
    opened,
    read_request,
    receiving,
)
from tests.raw_servers import serving_raw
from tests.servers import free_port


async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Read nothing, send nothing."""
    await asyncio.Event().wait()


async def test_lost_connections_are_failures_of_the_server() -> None:
    """Before the request was read, after it, and in the middle of the answer's headers."""

    async def close_at_once(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None: ...

    async def read_then_close(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    async def answer_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX-Half: ")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    for serve in (close_at_once, read_then_close, answer_half):
        async with serving_raw(serve) as url:
            error = await failure_at(f"{url}/secret-path?token=hidden")
        assert (type(error), error.code) == (ServerFailedError, "lost")
        assert "secret-path" not in error.message


async def test_connection_refused_and_unknown_names_are_unavailable() -> None:
    """No attempt is used, and the words say which host."""
    port = free_port()
    error = await failure_at(f"http://127.0.0.1:{port}/secret-path")
    assert (type(error), error.code) == (UnavailableError, "connect")
    assert f"127.0.0.1:{port}" in error.message
    error = await failure_at("https://receiver.invalid/secret-path")
    assert (type(error), error.code) == (UnavailableError, "dns")
    assert "receiver.invalid:443" in error.message
    assert "secret-path" not in error.message


async def test_errors_show_no_url_where_they_are_logged_whole() -> None:
    """aiohttp's errors quote the URL, and a traceback has the errors behind the one that is logged."""
    async with serving_raw(hang) as url:
        for scheme, changes in (("http:", {"answer_s": 0.2}), ("https:", {"connect_s": 0.2})):
            error = await failure_at(f"{url.replace('http:', scheme)}/secret-path?token=hidden", **changes)
            shown = "".join(traceback.format_exception(error))
            assert "secret-path" not in shown
            assert "hidden" not in shown


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Return the context of a server with a certificate for these names."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_certificate_is_verified(tmp_path: Path) -> None:
    """Against the system's authorities and the operator's file, and for the endpoint's own name."""
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    trusting = tls_context(str(file))
    async with receiving(context=server_context(authority, "127.0.0.1")) as receiver:
        for tls in (None, tls_context()):
            error = await failure_at(receiver.url, tls=tls)
            assert (type(error), error.code) == (UnavailableError, "tls")
            assert "certificate" in error.message
        async with opened(receiver.url, tls=trusting) as channel:
            assert (await channel.send(DELIVERY)).response == "204 No Content"
    async with receiving(context=server_context(authority, "other.example.com")) as receiver:
        error = await failure_at(receiver.url, tls=trusting)
        assert (type(error), error.code) == (UnavailableError, "tls")
    assert receiver.heard == []


async def test_server_without_tls_is_unavailable() -> None:
    """An https URL of an http server."""
    async with receiving() as receiver:
        error = await failure_at(receiver.url.replace("http:", "https:"))
    assert type(error) is UnavailableError
    assert receiver.heard == []


def test_file_that_has_no_certificate_is_refused(tmp_path: Path) -> None:
    """At the start, not at the first delivery."""
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises((ssl.SSLError, FileNotFoundError)):
            tls_context(str(tmp_path / name))


async def test_unreachable_endpoint_opens_the_breaker_with_its_reason() -> None:
    """The reason is what an operator sees on each delivery."""
    policy = BreakerPolicy(failures=2, open_s=60.0, probe_every_s=60.0)
    async with opened(f"http://127.0.0.1:{free_port()}/", breaker=policy) as channel:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="cannot connect"):
                await channel.send(DELIVERY)
        assert not channel.available()
        with pytest.raises(UnavailableError, match="not tried after too many failures: cannot connect"):
            await channel.send(DELIVERY)


async def test_channel_that_is_not_open_is_unavailable() -> None:
    """A delivery that arrives after the end is given back."""
    async with opened("http://127.0.0.1:1/") as channel:
        pass
    with pytest.raises(UnavailableError):
        await channel.send(DELIVERY)
