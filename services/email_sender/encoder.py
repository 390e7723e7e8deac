"""Turns a message into the bytes that a server gets: encodes it for the server's extensions, and signs it with DKIM.

A signed message is pure ASCII: a relay that had to convert 8-bit text would break the signature (RFC 6376, 5.3).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
from cachetools import TTLCache

from services.email_sender.dkim_keys import DkimKey, KeyRing
from services.email_sender.message import Mail
from services.email_sender.signers import PendingMessage, Signers
from services.email_sender.signing import Draft

# above this, encoding a message would block the event loop for too long
ENCODE_ASIDE_BYTES = 512 * 1024
# above this, a message is signed only at its turn: prepared messages take memory
SIGN_AHEAD_BYTES = 192 * 1024
# above this, a thread also encodes and hashes the message that it signs
_DRAFT_ASIDE_BYTES = 32 * 1024
MOST_UNSENT_BYTES = 64 * 1024 * 1024
# a message's Date is the time of its sending
MOST_AGE_S = 30.0
_MOST_THREADS = 4
# The event loop releases the interpreter's lock only briefly, so a signing thread seldom gets it back. After this
# interval the loop must yield; with Python's 5 ms the threads would mostly wait.
_SWITCH_S = 0.0003


class Encoder:
    """Encodes messages and signs them with the keys of their From domain.

    Threads make RSA signatures before the messages' turns. Ed25519 signatures are made at their turns, on the event
    loop: that takes less time than a thread and a place to wait in.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._any_rsa = any(key.is_rsa for key in keys.keys)
        self._signers = Signers()
        self._switched_s = 0.0
        self._unsent: TTLCache[tuple[str, bool], bytes] = TTLCache(MOST_UNSENT_BYTES, MOST_AGE_S, getsizeof=len)
        self._threads = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS), "mail")

    def open(self) -> None:
        """Shorten the switch interval, so that signing threads and the event loop share the interpreter's lock."""
        if self._any_rsa:
            self._switched_s = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_S)

    async def encode(self, mail: Mail, *, eight_bit: bool) -> bytes:
        """Return a message in CRLF lines, dots not stuffed; `eight_bit` if the server offers 8BITMIME."""
        content = self.encode_at_once(mail, eight_bit=eight_bit)
        if content is not None:
            return content
        kept = self._unsent.pop((mail.message_id, eight_bit), None)
        if kept is not None:
            return kept
        if mail.signed is None and mail.body.size <= SIGN_AHEAD_BYTES:
            mail = self.sign_ahead(mail, urgent=True)
        if mail.signed is not None:
            return await asyncio.shield(asyncio.wrap_future(mail.signed))
        work = partial(_encoded, mail, self._keys.for_domain(mail.from_domain), eight_bit=eight_bit)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def keep(self, mail: Mail, content: bytes, *, eight_bit: bool) -> None:
        """Keep an encoded message whose start was refused.

        Encoding a large message may take so long that its start comes too late; without this it would always be late.
        """
        if len(content) <= MOST_UNSENT_BYTES and self.encode_at_once(mail, eight_bit=eight_bit) is None:
            self._unsent[mail.message_id, eight_bit] = content

    def encode_at_once(self, mail: Mail, *, eight_bit: bool) -> bytes | None:
        """Return a message as `encode` does, or None if that would block the event loop for too long."""
        if mail.signed is not None:
            if mail.signed.done():
                return mail.signed.result()
            self._signers.hurry(mail.signed)
            return None
        if mail.body.size > ENCODE_ASIDE_BYTES or (self._any_rsa and self.signs_aside(mail.from_domain)):
            return None
        return _encoded(mail, self._keys.for_domain(mail.from_domain), eight_bit=eight_bit)

    def signs_aside(self, domain: str) -> bool:
        """Return whether messages from a domain are signed by threads: an RSA signature takes long."""
        return any(key.is_rsa for key in self._keys.for_domain(domain))

    def sign_ahead(self, mail: Mail, *, urgent: bool = False) -> Mail:
        """Start to sign a message, an urgent one first; return the mail with the pending message."""
        keys = self._keys.for_domain(mail.from_domain)
        if mail.body.size <= _DRAFT_ASIDE_BYTES:
            work = draft(mail, keys).signed
        else:
            work = partial(_encoded, mail, keys, eight_bit=False)
        pending = PendingMessage(work)
        self._signers.add(pending, urgent=urgent)
        return msgspec.structs.replace(mail, signed=pending)

    def close(self) -> None:
        """Stop the threads."""
        if self._switched_s:
            sys.setswitchinterval(self._switched_s)
        self._signers.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _encoded(mail: Mail, keys: Sequence[DkimKey], *, eight_bit: bool) -> bytes:
    if not keys:
        return mail.encode(eight_bit=eight_bit)
    return draft(mail, keys).signed()


def draft(mail: Mail, keys: Sequence[DkimKey]) -> Draft:
    """Return a message to be signed; of its headers, only those of its body are looked at again."""
    body = mail.body.encode(eight_bit=False)
    return Draft(mail.head, body, keys, mail.frame.covered(mail.own), plain=mail.body.plain)
