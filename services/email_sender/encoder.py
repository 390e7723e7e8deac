"""Turns a message into the bytes that a server gets: encodes it for the server's extensions, and signs it with DKIM.

A signed message is pure ASCII: a relay that had to convert 8-bit text would break the signature (RFC 6376, 5.3).
"""

from __future__ import annotations

import asyncio
import os
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
# above this, a thread encodes and hashes the message
_DRAFT_ASIDE_BYTES = 32 * 1024
MOST_UNSENT_BYTES = 64 * 1024 * 1024
# a message's Date is the time of its sending
MOST_AGE_S = 30.0
_MOST_THREADS = 4


class Encoder:
    """Encodes messages and signs them with the keys of their From domain.

    Processes make the signatures before the messages' turns. A message whose turn comes first waits for its process if
    it needs an RSA signature; Ed25519 takes less time than that.
    """

    def __init__(self, keys: KeyRing) -> None:
        # the keys that sign messages from a domain
        self.keys_of = keys.for_domain
        self._any_rsa = any(key.is_rsa for key in keys.keys)
        self._signers = Signers(keys.keys)
        self._unsent: TTLCache[tuple[str, bool], bytes] = TTLCache(MOST_UNSENT_BYTES, MOST_AGE_S, getsizeof=len)
        self._threads = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS), "mail")

    async def open(self) -> None:
        """Start the processes that sign; until then a thread signs at a message's turn."""
        await self._signers.open()

    async def encode(self, mail: Mail, *, eight_bit: bool) -> bytes:
        """Return a message in CRLF lines, dots not stuffed; `eight_bit` if the server offers 8BITMIME."""
        content = self.encode_at_once(mail, eight_bit=eight_bit)
        if content is not None:
            return content
        kept = self._unsent.pop((mail.message_id, eight_bit), None)
        if kept is not None:
            return kept
        keys = self.keys_of(mail.from_domain)
        if mail.signed is None and keys and mail.body.size <= SIGN_AHEAD_BYTES:
            mail = self.sign_ahead(mail, keys, urgent=True)
        if mail.signed is not None and (signed := await self._signers.wait(mail.signed)) is not None:
            return signed
        work = partial(_encoded, mail, keys, eight_bit=eight_bit)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def keep(self, mail: Mail, content: bytes, *, eight_bit: bool) -> None:
        """Keep an encoded message whose start was refused.

        Encoding a large message may take so long that its start comes too late; without this it would always be late.
        """
        if len(content) <= MOST_UNSENT_BYTES and self.encode_at_once(mail, eight_bit=eight_bit) is None:
            self._unsent[mail.message_id, eight_bit] = content

    def encode_at_once(self, mail: Mail, *, eight_bit: bool) -> bytes | None:
        """Return a message as `encode` does, or None if that would block the event loop for too long."""
        if mail.signed is not None and mail.signed.content is not None:
            return mail.signed.content
        if self._any_rsa and self._signs_with_rsa(mail.from_domain):
            if mail.signed is not None:
                self._signers.hurry(mail.signed)
            return None
        if mail.body.size > ENCODE_ASIDE_BYTES:
            return None
        if mail.signed is not None and (content := mail.signed.sign_now()) is not None:
            return content
        return _encoded(mail, self.keys_of(mail.from_domain), eight_bit=eight_bit)

    def _signs_with_rsa(self, domain: str) -> bool:
        return any(key.is_rsa for key in self.keys_of(domain))

    def sign_ahead(self, mail: Mail, keys: Sequence[DkimKey], *, urgent: bool = False) -> Mail:
        """Start to sign a message with these keys, an urgent one first; return the mail with the pending message."""
        pending = PendingMessage()
        if mail.body.size <= _DRAFT_ASIDE_BYTES:
            self._signers.add(pending, draft(mail, keys), urgent=urgent)
        else:
            drafted = asyncio.get_running_loop().run_in_executor(self._threads, draft, mail, keys)
            drafted.add_done_callback(partial(self._add_drafted, pending, urgent=urgent))
        return msgspec.structs.replace(mail, signed=pending)

    def _add_drafted(self, pending: PendingMessage, drafted: asyncio.Future[Draft], *, urgent: bool) -> None:
        if drafted.cancelled() or drafted.exception() is not None:
            pending.give_up()  # encoding it at its turn fails in the same way, and reports the reason
        else:
            self._signers.add(pending, drafted.result(), urgent=urgent)

    async def close(self) -> None:
        """Stop the processes and threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._signers.close()


def _encoded(mail: Mail, keys: Sequence[DkimKey], *, eight_bit: bool) -> bytes:
    if not keys:
        return mail.encode(eight_bit=eight_bit)
    return draft(mail, keys).signed()


def draft(mail: Mail, keys: Sequence[DkimKey]) -> Draft:
    """Return a message to be signed; of its headers, only those of its body are looked at again."""
    body = mail.body.encode(eight_bit=False)
    return Draft(mail.head, body, keys, mail.frame.covered(mail.own), plain=mail.body.plain)
