"""Logs in to an SMTP server (RFC 4954) by a method that both sides support."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from aiosmtplib import SMTPResponse, SMTPServerDisconnected
from aiosmtplib.auth import auth_crammd5_verify, auth_login_encode, auth_plain_encode

from services.email_sender.oauth import TokenSource
from services.email_sender.settings import ServerSettings
from shared.errors import StopChannelError
from shared.foreign_text import legible

Command = Callable[[bytes], Awaitable[SMTPResponse]]

# tried in this order; without encryption, the method that hides the password comes first
_METHODS = ("plain", "login", "cram-md5")
_METHODS_IN_CLEAR = ("cram-md5", "plain", "login")
_UNKNOWN_METHOD = 504
_WELCOME = 235
_CONTINUE = 334
# Gmail and Exchange refuse a token with 535
_REFUSED = 535
_REFUSED_TOKEN = frozenset({530, 534, 535, 538, 550, 554})


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials for a server: the user name and password of its settings, or tokens in place of the password."""

    server: ServerSettings
    tokens: TokenSource | None = None


async def log_in(
    command: Command, credentials: Credentials, offered: Collection[str], *, encrypted: bool
) -> SMTPResponse | None:
    """Log in with `command`; return the server's refusal, or None on success.

    Raises StopChannelError if the server offers no method that Kurir supports, and the errors of `TokenSource.get`.
    """
    if credentials.tokens is not None:
        return await _log_in_with_token(command, credentials.server, credentials.tokens, offered)
    return await _log_in_with_password(command, credentials.server, offered, encrypted=encrypted)


async def _log_in_with_password(
    command: Command, server: ServerSettings, offered: Collection[str], *, encrypted: bool
) -> SMTPResponse | None:
    known = _METHODS if encrypted else _METHODS_IN_CLEAR
    methods = [method for method in known if method in offered]
    if not methods:
        words = " ".join(offered) or "none"
        raise StopChannelError(f"{server.name} offers no AUTH method that Kurir supports ({words})", code="auth")
    response = None
    for method in methods:
        response = await _authenticate(command, method, server)
        if response.code == _WELCOME:
            return None
        if response.code != _UNKNOWN_METHOD:
            break
    return response


async def _authenticate(command: Command, method: str, server: ServerSettings) -> SMTPResponse:
    username, password = server.username, server.password
    if method == "plain":
        return await command(b"AUTH PLAIN " + auth_plain_encode(username, password))
    if method == "login":
        user, secret = auth_login_encode(username, password)
        response = await command(b"AUTH LOGIN")
        if response.code == 334:
            response = await command(user)
        return await command(secret) if response.code == 334 else response
    response = await command(b"AUTH CRAM-MD5")
    if response.code != 334:
        return response
    return await command(auth_crammd5_verify(username, password, response.message))


async def _log_in_with_token(
    command: Command, server: ServerSettings, tokens: TokenSource, offered: Collection[str]
) -> SMTPResponse | None:
    """Log in by XOAUTH2; a refused token is renewed once."""
    if "xoauth2" not in offered:
        words = " ".join(offered) or "none"
        raise StopChannelError(f"{server.name} does not offer AUTH XOAUTH2 ({words})", code="auth")
    while True:
        token = await tokens.get()
        response = await _present(command, server.username, token)
        if response.code == _WELCOME:
            tokens.accepted()
            return None
        if response.code not in _REFUSED_TOKEN or not tokens.renew(token):
            return response


async def _present(command: Command, username: str, token: str) -> SMTPResponse:
    """Present a token (developers.google.com, Gmail, "OAuth 2.0 mechanism"); return the final reply.

    A server that refuses it may give the reason in a challenge (JSON in base64), to be answered with an empty line.
    """
    presented = base64.b64encode(f"user={username}\x01auth=Bearer {token}\x01\x01".encode())
    response = await command(b"AUTH XOAUTH2 " + presented)
    if response.code == _CONTINUE and not response.message.strip():
        response = await command(presented)  # the server ignored the token in the command and asks for it
    if response.code != _CONTINUE:
        return response
    reason = _decoded(response.message)
    try:
        final = await command(b"")
    except SMTPServerDisconnected:
        return SMTPResponse(_REFUSED, reason)  # some servers close the connection instead of answering
    if final.code == _WELCOME:
        return final
    return SMTPResponse(final.code, f"{final.message} {reason}".strip())


def _decoded(challenge: str) -> str:
    try:
        return legible(base64.b64decode(challenge, validate=True), 300).strip()
    except (binascii.Error, ValueError):
        return legible(challenge, 300)
