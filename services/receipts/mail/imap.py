"""A mailbox on an IMAP server (RFC 9051 and 3501), with blocking calls for a thread.

It reads without marking (BODY.PEEK) and marks each mail on its own, by UID. `imaplib` is the standard library's client;
its errors are translated into MailboxError here, and never contain the password.
"""

from __future__ import annotations

import base64
import imaplib
import re
import socket
import ssl
from contextlib import suppress

from services.receipts.mail.intake import MOST_MAIL_BYTES
from services.receipts.mail.settings import MailboxSettings
from shared.errors import KurirError
from shared.foreign_text import legible

_TIMEOUT_S = 20.0
# a search's answer is one line, and imaplib takes no line beyond a million bytes
_SEARCHED_AT_ONCE = 50_000
_ERRORS = (imaplib.IMAP4.error, OSError, UnicodeError)
_UNREPRESENTABLE = re.compile(r"[^\x20-\x7e]+|&")


class MailboxError(KurirError):
    """The mailbox cannot be read or marked now; the message says why."""


class ImapMailbox:
    """A connection with the folder selected; every method blocks and raises MailboxError."""

    def __init__(self, settings: MailboxSettings) -> None:
        self._settings = settings
        self._expunges_by_uid = False
        try:
            self._client = self._connected()
        except _ERRORS as error:
            raise MailboxError(_why("cannot connect", error)) from error
        try:
            self._open_folder()
        except (*_ERRORS, MailboxError) as error:
            self.close()
            raise MailboxError(_why("cannot open the mailbox", error)) from error

    def _connected(self) -> imaplib.IMAP4:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.tls == "implicit":
            return imaplib.IMAP4_SSL(settings.host, settings.port, ssl_context=context, timeout=_TIMEOUT_S)
        client = imaplib.IMAP4(settings.host, settings.port, timeout=_TIMEOUT_S)
        if settings.tls == "required" or "STARTTLS" in client.capabilities:
            client.starttls(context)
        return client

    def _open_folder(self) -> None:
        client, settings = self._client, self._settings
        if "AUTH=PLAIN" in client.capabilities:
            # LOGIN cannot carry a password beyond ASCII
            secret = f"\0{settings.username}\0{settings.password}".encode()
            client.authenticate("PLAIN", lambda _: secret)
        else:
            client.login(settings.username, settings.password)
        # many servers offer more after the log-in, which imaplib does not ask again
        offered = b" ".join(row for row in self._call("capability") if isinstance(row, bytes))
        self._expunges_by_uid = b"UIDPLUS" in offered.upper().split()
        self._select()

    def _select(self) -> int:
        """Open the folder, which lets the server report what has arrived; return how many mails it has."""
        rows = self._call("select", f'"{folder_name(self._settings.folder)}"')
        return int(rows[0]) if rows and isinstance(rows[0], bytes) and rows[0].isdigit() else 0

    def new(self, most: int) -> list[str]:
        """Return the UIDs of mails that are not marked, the oldest first."""
        count = self._select()
        for first in range(1, count + 1, _SEARCHED_AT_ONCE):
            some = f"{first}:{min(first + _SEARCHED_AT_ONCE - 1, count)}"
            rows = self._call("uid", "SEARCH", some, "UNSEEN", "UNDELETED")
            uids = b" ".join(row for row in rows if isinstance(row, bytes)).split()
            if uids:
                return [uid.decode("ascii") for uid in sorted(uids, key=int)[:most]]
        return []

    def read(self, uid: str) -> bytes | None:
        """Return a mail, of one beyond MOST_MAIL_BYTES its beginning; None if it is gone."""
        rows = self._call("uid", "FETCH", uid, f"(BODY.PEEK[]<0.{MOST_MAIL_BYTES}>)")
        return next((bytes(row[1]) for row in rows if isinstance(row, tuple) and len(row) > 1), None)

    def mark(self, uid: str) -> None:
        """Mark a mail as taken: as seen, and as deleted where the settings say so."""
        flags = r"(\Seen \Deleted)" if self._settings.delete else r"(\Seen)"
        self._call("uid", "STORE", uid, "+FLAGS.SILENT", flags)
        if self._settings.delete and self._expunges_by_uid:
            # plain EXPUNGE would also remove what somebody else marked as deleted
            self._call("uid", "EXPUNGE", uid)

    def interrupt(self) -> None:
        """End the connection from another thread, so that a call that waits fails at once."""
        with suppress(OSError):
            self._client.socket().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Log out and disconnect; never raises."""
        with suppress(*_ERRORS):
            self._client.logout()
        with suppress(*_ERRORS):
            self._client.shutdown()

    def _call(self, name: str, *args: str) -> list[bytes | tuple[bytes, bytes] | None]:
        try:
            answer, rows = getattr(self._client, name)(*args)
        except _ERRORS as error:
            raise MailboxError(_why("the connection failed", error)) from error
        if answer != "OK":
            raise MailboxError(f"the server refused {name.upper()}: {_text(rows)}")
        found: list[bytes | tuple[bytes, bytes] | None] = rows
        return found


def folder_name(name: str) -> str:
    """Return a folder's name as IMAP writes it between quotes: in modified UTF-7 (RFC 3501, 5.1.3)."""
    encoded = _UNREPRESENTABLE.sub(lambda found: _shifted(found[0]), name)
    return encoded.replace("\\", "\\\\").replace('"', '\\"')


def _shifted(text: str) -> str:
    if text == "&":
        return "&-"
    return "&" + base64.b64encode(text.encode("utf-16-be")).decode("ascii").rstrip("=").replace("/", ",") + "-"


def _why(what: str, error: BaseException) -> str:
    return f"{what}: {legible(str(error), 300) or type(error).__name__}"


def _text(rows: object) -> str:
    return legible(b" ".join(row for row in rows if isinstance(row, bytes)), 300) if isinstance(rows, list) else ""
