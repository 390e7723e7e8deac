"""A stand-in for Amazon SNS over real TLS: its own authority, its own name, its certificate and confirmation pages."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import free_port

HOST = "sns.eu-west-1.amazonaws.com"


@dataclass
class Amazon:
    """Answers by path: a body, or a whole response; `asked` are the paths with their queries."""

    answers: dict[str, bytes | web.Response] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        found = self.answers.get(request.path, b"<ConfirmSubscriptionResponse/>")
        return web.Response(body=found) if isinstance(found, bytes) else found


@asynccontextmanager
async def amazon(folder: Path, patch: pytest.MonkeyPatch, host: str = HOST) -> AsyncIterator[Amazon]:
    """Serve it as `host` while the block runs; this process resolves all SNS hosts to it and trusts its authority."""
    found, port = Amazon(), free_port()
    context = _context(folder, host)
    patch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))
    resolve = socket.getaddrinfo

    def resolved(name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name).endswith(".amazonaws.com"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        return resolve(name, *arguments, **options)

    patch.setattr(socket, "getaddrinfo", resolved)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield found
    finally:
        await runner.cleanup()


def _context(folder: Path, host: str) -> ssl.SSLContext:
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of tests")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    until = now + timedelta(days=1)
    root = (
        x509.CertificateBuilder(issuer, issuer, authority.public_key(), 1, now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    leaf = (
        x509.CertificateBuilder(issuer, name, key.public_key(), 2, now, until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(root.public_bytes(pem))
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem", folder / "key.pem")
    return context
