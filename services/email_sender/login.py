"""Logging in to an SMTP server (RFC 4954): the method is chosen among those that both sides know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aiosmtplib.auth import auth_crammd5_verify, auth_login_encode, auth_plain_encode
from aiosmtplib.response import SMTPResponse

from services.email_sender.settings import ServerSettings
from shared.errors import StopChannelError

Command = Callable[[bytes], Awaitable[SMTPResponse]]

# tried in this order; without encryption, what hides the password comes first
_METHODS = ("plain", "login", "cram-md5")
_METHODS_IN_CLEAR = ("cram-md5", "plain", "login")
_UNKNOWN_METHOD = 504
_WELCOME = 235


async def log_in(
    command: Command, server: ServerSettings, offered: Collection[str], *, encrypted: bool
) -> SMTPResponse | None:
    """Log in with `command`; returns the server's refusal, None once it let us in.

    Raises StopChannelError where it offers no method that Kurir knows.
    """
    known = _METHODS if encrypted else _METHODS_IN_CLEAR
    methods = [method for method in known if method in offered]
    if not methods:
        words = " ".join(offered) or "none"
        raise StopChannelError(f"{server.name} offers no AUTH method that Kurir knows ({words})", code="auth")
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
