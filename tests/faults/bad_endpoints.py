"""Endpoints that do what they should not, in a process of their own, so that they disturb no measurement.

`python -m tests.faults.bad_endpoints PORT FOLDER` serves each of `KINDS` under its path at PORT, and with a certificate
of nobody's at PORT + 1; it writes FOLDER/ready, and each request's path to FOLDER/heard.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import trustme

from tests.raw_servers import Serve

KINDS = (
    "hang", "redirect", "refuse", "fail", "busy", "cut", "huge", "drip", "flood", "interim", "nonsense",
)  # fmt: skip
_PIECE = b"x" * 65536
_GIGABYTE_PIECES = 16_384


def _status(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {line}", *headers, "Content-Length: 0", "", ""]).encode()


_WHOLE = {
    "redirect": _status("307 Temporary Redirect", "Location: http://127.0.0.1:1/"),
    "refuse": _status("404 Not Found"),
    "fail": _status("500 Internal Server Error"),
    "busy": _status("429 Too Many Requests", "Retry-After: 1"),
    "nonsense": b"SSH-2.0-OpenSSH_9.6\r\n",
    "cut": b"HTTP/1.1 200 OK\r\nX-Half: ",
}


async def _pieces(kind: str) -> AsyncIterator[bytes]:
    """Yield what an endpoint sends after it has read a request."""
    if kind in _WHOLE:
        yield _WHOLE[kind]
    elif kind == "huge":
        yield b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 1073741824\r\n\r\n"
        for _ in range(_GIGABYTE_PIECES):
            yield _PIECE
    elif kind == "flood":
        while True:
            yield b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000
    elif kind in {"drip", "interim"}:
        yield b"HTTP/1.1 200 OK\r\n" if kind == "drip" else b""
        while True:
            yield b"X: y\r\n" if kind == "drip" else b"HTTP/1.1 102 Processing\r\n\r\n"
            await asyncio.sleep(0.25)
    else:
        await asyncio.Event().wait()


def _serving(heard: Path) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
                await reader.readexactly(int(length.partition(":")[2]))
                kind = head.split()[1].strip("/")
                with heard.open("a") as file:
                    file.write(f"{kind}\n")
                async for piece in _pieces(kind):
                    writer.write(piece)
                    await writer.drain()
                if kind == "cut":
                    return
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.transport.abort()

    return serve


async def _main(port: int, folder: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    serve = _serving(folder / "heard")
    plain = await asyncio.start_server(serve, "127.0.0.1", port)
    secret = await asyncio.start_server(serve, "127.0.0.1", port + 1, ssl=context)
    (folder / "ready").touch()
    async with plain, secret:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2])))
