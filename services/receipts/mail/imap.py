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
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from services.receipts.mail.intake import MOST_MAIL_BYTES
from services.receipts.mail.settings import MailboxSettings
from shared.errors import KurirError
from shared.foreign_text import legible
from shared.logs import get_logger

_TIMEOUT_S = 20.0
# a search's answer is one line, and imaplib takes no line beyond a million bytes
_SEARCHED_AT_ONCE = 50_000
# a process that was killed leaves one; the rest is for the next connection
_MOST_UNFINISHED = 1000
# servers that ignore that we ask for the beginning of a mail send all of it
_MOST_LITERAL_BYTES = 64 * 1024 * 1024
# a mail without a single byte comes as a quoted string, not as a literal
_EMPTY = re.compile(rb'BODY\[\](?:<0>)? ""')
# imaplib raises ValueError for some answers that it cannot read
_ERRORS = (imaplib.IMAP4.error, OSError, ValueError)
_UNREPRESENTABLE = re.compile(r"[^\x20-\x7e]+|&")


class MailboxError(KurirError):
    """The mailbox cannot be read or marked now; the message says why."""


class MailboxRefusalError(MailboxError):
    """The server refused one command; the connection can be used for others."""


class _Client(imaplib.IMAP4):
    """The standard library's client, which would reserve memory for a literal of any size that a server announces."""

    def read(self, size: int) -> bytes:
        """Read that many bytes; raises IMAP4.abort for more than any answer needs."""
        if size > _MOST_LITERAL_BYTES:
            raise self.abort(f"the server announces {size} bytes at once")
        return super().read(size)


class _TlsClient(_Client, imaplib.IMAP4_SSL):
    """The same over TLS."""


class ImapMailbox:
    """A connection with the folder selected; every method blocks and raises MailboxError."""

    def __init__(self, settings: MailboxSettings) -> None:
        self._settings = settings
        self._expunges = False
        self._unfinished: list[str] = []
        self._left: set[str] = set()
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
            return _TlsClient(settings.host, settings.port, ssl_context=context, timeout=_TIMEOUT_S)
        client = _Client(settings.host, settings.port, timeout=_TIMEOUT_S)
        if settings.tls == "required" or "STARTTLS" in client.capabilities:
            client.starttls(context)
        return client

    def _open_folder(self) -> None:
        client, settings = self._client, self._settings
        if "AUTH=PLAIN" in client.capabilities:
            # LOGIN cannot carry a password beyond ASCII
            secret = f"\0{settings.username}\0{settings.password}".encode()
            client.authenticate("PLAIN", lambda _: secret)
        elif not f"{settings.username}{settings.password}".isascii():
            raise MailboxError("the server takes no user or password beyond ASCII")
        else:
            client.login(settings.username, settings.password)
        # many servers offer more after the log-in, which imaplib does not ask again
        offered = b" ".join(row for row in self._call("capability") if isinstance(row, bytes)).upper().split()
        self._expunges = settings.delete and b"UIDPLUS" in offered
        count = self._select()
        if settings.delete and not self._expunges:
            get_logger().warning("mailbox_not_expunged", mailbox=settings.name, reason="the server has no UIDPLUS")
        if self._expunges:
            found = (uid for some in self._search(count, "SEEN", "DELETED") for uid in some)
            self._unfinished = list(islice(found, _MOST_UNFINISHED))

    def _select(self) -> int:
        """Open the folder, which lets the server report what has arrived; return how many mails it has."""
        rows = self._call("select", f'"{folder_name(self._settings.folder)}"')
        return int(rows[0]) if rows and isinstance(rows[0], bytes) and rows[0].isdigit() else 0

    def _search(self, count: int, *criteria: str) -> Iterator[list[str]]:
        """Yield the UIDs that match among the first `count` mails, the oldest first, in pieces."""
        for first in range(1, count + 1, _SEARCHED_AT_ONCE):
            some = f"{first}:{min(first + _SEARCHED_AT_ONCE - 1, count)}"
            rows = self._call("uid", "SEARCH", some, *criteria)
            uids = b" ".join(row for row in rows if isinstance(row, bytes)).split()
            yield [uid.decode("ascii") for uid in sorted(filter(bytes.isdigit, uids), key=int)]

    def new(self, most: int) -> list[str]:
        """Return the UIDs of mails to take, the oldest first.

        These are mails without a mark. Where mails are deleted, the first ones are those that were marked before this
        connection and are still there: a process that ended between the mark and the expunge leaves them.
        """
        count = self._select()
        if self._unfinished:
            return self._unfinished[:most]
        for some in self._search(count, "UNSEEN", "UNDELETED"):
            uids = [uid for uid in some if uid not in self._left]
            if uids:
                return uids[:most]
        return []

    def read(self, uid: str) -> bytes | None:
        """Return a mail, of one beyond MOST_MAIL_BYTES its beginning; None if it is gone or the server cannot read it.

        After None, `new` does not return it again on this connection.
        """
        try:
            rows = self._call("uid", "FETCH", uid, f"(BODY.PEEK[]<0.{MOST_MAIL_BYTES}>)")
        except MailboxRefusalError:
            rows = []
        for row in rows:
            if isinstance(row, tuple) and len(row) > 1:
                return bytes(row[1])
            if isinstance(row, bytes) and _EMPTY.search(row):
                return b""
        self._done(uid)
        self._left.add(uid)
        return None

    def mark(self, uid: str) -> None:
        """Mark a mail as taken: as seen, and as deleted where the settings say so."""
        flags = r"(\Seen \Deleted)" if self._settings.delete else r"(\Seen)"
        self._call("uid", "STORE", uid, "+FLAGS.SILENT", flags)
        if self._expunges:
            # plain EXPUNGE would also remove what somebody else marked as deleted
            self._expunge(uid)
        self._done(uid)

    def _expunge(self, uid: str) -> None:
        try:
            self._call("uid", "EXPUNGE", uid)
        except MailboxRefusalError as error:
            # without the right to expunge, taken mails stay marked as deleted, and must not hold up the others
            get_logger().warning("mailbox_not_expunged", mailbox=self._settings.name, reason=str(error))
            self._expunges = False
            self._unfinished.clear()

    def _done(self, uid: str) -> None:
        if uid in self._unfinished:
            self._unfinished.remove(uid)

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
            command = args[0] if name == "uid" else name.upper()
            raise MailboxRefusalError(f"the server refused {command}: {_text(rows)}")
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


def _why(what: str, error: Exception) -> str:
    # imaplib's errors have the server's words as bytes
    words = error.args[0] if error.args and isinstance(error.args[0], bytes) else str(error)
    return f"{what}: {legible(words, 300) or type(error).__name__}"


def _text(rows: object) -> str:
    return legible(b" ".join(row for row in rows if isinstance(row, bytes)), 300) if isinstance(rows, list) else ""
