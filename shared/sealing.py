"""Sealing: the values of sensitive variables are encrypted from the request to the send.

Ingest seals them, and the sender opens them to render the message. In between (the spool, the queue, Redis's file, dead
letters, the database and its backups) only the encrypted values exist. The key is derived from KURIR_INTERNAL_SECRET:
after a change of the secret, messages that were sealed before cannot be sent. The cipher is AES-256-GCM with a random
nonce for each set of values.

    variables: {"minutes": 5, "code": "482913"}  →  {"minutes": 5, "~sealed": b"…"}
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.blasts import Blast
from shared.errors import KurirError
from shared.jobs import Job
from shared.numbers import Number, packed_number, unpacked_value
from shared.templates import Template

# no variable can have this name
SEALED = "~sealed"
HIDDEN = "***"
_PURPOSE = b"kurir sealing"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_SHORTEST_FOUND_INSIDE = 4

_encoder = msgspec.msgpack.Encoder(enc_hook=packed_number)
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class SealError(KurirError):
    """Sealed values cannot be opened: they were sealed with another secret or are corrupt."""


class Seal:
    """Seals and opens values with one secret."""

    def __init__(self, secret: str) -> None:
        self._cipher = AESGCM(hashlib.blake2b(secret.encode(), digest_size=_KEY_BYTES, person=_PURPOSE).digest())

    def closed(self, values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
        """Return the values with those of the given names sealed; unchanged if none has such a name."""
        secret = {name: value for name, value in values.items() if name in names}
        if not secret:
            return dict(values)
        rest = {name: value for name, value in values.items() if name not in names}
        nonce = os.urandom(_NONCE_BYTES)
        return rest | {SEALED: nonce + self._cipher.encrypt(nonce, _encoder.encode(secret), None)}

    def opened(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values with sealed ones opened; raises SealError."""
        if SEALED not in values:
            return dict(values)
        try:
            sealed = values[SEALED]
            secret = _decoder.decode(self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None))
        except (InvalidTag, msgspec.DecodeError, TypeError, ValueError) as error:
            raise SealError("the message's sensitive values were sealed with another KURIR_INTERNAL_SECRET") from error
        return {name: value for name, value in values.items() if name != SEALED} | secret

    def secrets(self, values: Mapping[str, Any]) -> list[str]:
        """Return the values that were sealed, as texts; an empty list if they cannot be opened."""
        if SEALED not in values:
            return []
        try:
            opened = self.opened(values)
        except SealError:
            return []
        found = [unpacked_value(value) for name, value in opened.items() if name not in values]
        written = [value.written for value in found if isinstance(value, Number)]
        return written + [str(value) for value in found if value is not None]

    def opened_job(self, job: Job) -> Job:
        """Return a job with its values opened, ready to render; raises SealError."""
        if SEALED not in job.recipient.variables:
            return job
        recipient = msgspec.structs.replace(job.recipient, variables=self.opened(job.recipient.variables))
        return msgspec.structs.replace(job, recipient=recipient)

    def opened_blast(self, blast: Blast) -> Blast:
        """Return a blast with its values opened, ready to render; raises SealError."""
        if SEALED not in blast.variables:
            return blast
        return msgspec.structs.replace(blast, variables=self.opened(blast.variables))


def sensitive_names(template: Template) -> frozenset[str]:
    """Return the names of a template's sensitive variables."""
    return frozenset(variable.name for variable in template.variables if variable.sensitive)


def hidden_values(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the values with stars instead of the sensitive ones, for texts that are stored."""
    return {**values, **{name: HIDDEN for name in names if name in values}}


def without(text: str, secrets: Sequence[str]) -> str:
    """Return a provider's text without the secret values that it may quote.

    A value of one to three characters is replaced only where it is a whole word, since it may occur within any word.
    """
    if not secrets:
        return text
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST_FOUND_INSIDE:
            text = text.replace(secret, HIDDEN)
        elif secret.strip():
            text = " ".join(HIDDEN if word.strip("\"'.,:;()<>") == secret else word for word in text.split(" "))
    return text
